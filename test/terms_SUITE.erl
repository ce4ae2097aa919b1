%% Terms on their way to Python and back.
-module(terms_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(DEPTH_MAX, 512).

all() ->
    [
        what_python_sees,
        what_erlang_sees,
        integers_of_every_size,
        random_terms_come_back,
        floats,
        text_and_bytes,
        atoms,
        atoms_of_python,
        new_atoms_are_bounded,
        opaque_terms_come_back,
        opaque_terms_in_python,
        depth_is_bounded,
        cycles_are_bounded,
        improper_lists,
        bitstrings,
        unsupported_objects,
        keys_of_maps,
        subclasses,
        large_values
    ].

init_per_suite(Config) ->
    {ok, Context} = py_reactor:start_context(reactor_test:new_id(), worker, #{python_path => [reactor_test:python_path()]}),
    [{context, Context} | Config].

end_per_suite(Config) ->
    py_reactor_context:stop(context(Config)).

context(Config) ->
    proplists:get_value(context, Config).

%% Through Python and back.
back(Config, Term) ->
    {ok, Back} = py:call(context(Config), terms, identity, [Term]),
    Back.

shown(Config, Term) ->
    {ok, Shown} = py:call(context(Config), terms, show, [Term]),
    Shown.

eval(Config, Expression) ->
    py:eval(context(Config), Expression).

what_python_sees(Config) ->
    [
        ?assertEqual({Term, Shown}, {Term, shown(Config, Term)})
     || {Term, Shown} <- [
            {1, <<"int 1">>},
            {-1, <<"int -1">>},
            {1.5, <<"float 1.5">>},
            {true, <<"bool True">>},
            {false, <<"bool False">>},
            {none, <<"NoneType None">>},
            {nil, <<"NoneType None">>},
            {undefined, <<"NoneType None">>},
            {ok, <<"str 'ok'">>},
            {<<"text">>, <<"str 'text'">>},
            {<<>>, <<"str ''">>},
            {<<195, 169>>, <<"str 'é'"/utf8>>},
            {<<255, 0>>, <<"bytes b'\\xff\\x00'">>},
            {{bytes, <<"text">>}, <<"bytes b'text'">>},
            {{bytes, <<>>}, <<"bytes b''">>},
            {{bytes, 5}, <<"tuple ('bytes', 5)">>},
            {{bytes, <<"a">>, <<"b">>}, <<"tuple ('bytes', 'a', 'b')">>},
            {[], <<"list []">>},
            {"ab", <<"list [97, 98]">>},
            {[1, [2, {3}]], <<"list [1, [2, (3,)]]">>},
            {{}, <<"tuple ()">>},
            {#{}, <<"dict {}">>},
            {#{a => #{<<"b">> => [nil]}}, <<"dict {'a': {'b': [None]}}">>},
            {#{{1, 2} => 3}, <<"dict {(1, 2): 3}">>}
        ]
    ].

what_erlang_sees(Config) ->
    [
        ?assertEqual({Expression, {ok, Term}}, {Expression, eval(Config, Expression)})
     || {Expression, Term} <- [
            {"None", none},
            {"True", true},
            {"False", false},
            {"'text'", <<"text">>},
            {"'\\u00e9'", <<195, 169>>},
            {"b'\\xff'", <<255>>},
            {"bytearray(b'ab')", <<"ab">>},
            {"memoryview(b'abc')[1:]", <<"bc">>},
            {"[1, 'a', None]", [1, <<"a">>, none]},
            {"(1, (2,), ())", {1, {2}, {}}},
            {"{'a': 1, 2: [3]}", #{<<"a">> => 1, 2 => [3]}},
            {"-0.5", -0.5},
            {"2 ** 70", 1 bsl 70},
            {"''", <<>>}
        ]
    ].

integers_of_every_size(Config) ->
    Powers = [1 bsl N || N <- lists:seq(0, 300) ++ [2039, 2040, 2041, 8000, 100000]],
    All = lists:append([[P - 1, P, P + 1, -P, 1 - P, -P - 1] || P <- Powers]),
    ?assertEqual(All, back(Config, All)),
    [?assertEqual({ok, integer_to_binary(N)}, py:call(context(Config), terms, decimal, [N])) || N <- lists:sublist(All, 1800)].

random_terms_come_back(Config) ->
    Seed = {erlang:unique_integer(), erlang:monotonic_time(), erlang:phash2(make_ref())},
    ct:log("rand:seed(exsss, ~w)", [Seed]),
    _ = rand:seed(exsss, Seed),
    [
        begin
            Term = random_term(5),
            ?assertEqual(Term, back(Config, Term))
        end
     || _ <- lists:seq(1, 1000)
    ].

%% Of those terms that have a counterpart of their own.
random_term(Depth) ->
    case rand:uniform(case Depth of 0 -> 5; _ -> 9 end) of
        1 -> rand:uniform(1000) - 500;
        2 -> (rand:uniform(1 bsl 200) - (1 bsl 199)) bsr rand:uniform(200);
        3 -> (rand:uniform() - 0.5) * math:pow(10, rand:uniform(600) - 300);
        4 -> rand:bytes(rand:uniform(40) - 1);
        5 -> lists:nth(rand:uniform(6), [true, false, none, <<"text">>, <<"ü"/utf8>>, <<0>>]);
        6 -> [random_term(Depth - 1) || _ <- lists:seq(2, rand:uniform(6))];
        7 -> list_to_tuple([random_term(Depth - 1) || _ <- lists:seq(2, rand:uniform(6))]);
        8 -> maps:from_list([{rand:bytes(rand:uniform(8)), random_term(Depth - 1)} || _ <- lists:seq(2, rand:uniform(6))]);
        9 -> maps:from_list([{{rand:uniform(99), K}, random_term(Depth - 1)} || K <- lists:seq(2, rand:uniform(6))])
    end.

floats(Config) ->
    Exact = [0.0, -0.0, 1.0e308, -1.0e308, 5.0e-324, 2.2250738585072014e-308, 0.1, 1 / 3, math:pi()],
    [?assertEqual(<<F/float>>, <<(back(Config, F))/float>>) || F <- Exact],
    [?assertEqual(F, back(Config, F)) || F <- [nan, infinity, neg_infinity]],
    ?assertEqual({ok, [nan, infinity, neg_infinity]}, eval(Config, "[float('nan'), float('inf'), float('-inf')]")),
    ?assertEqual(<<"float inf">>, shown(Config, infinity)),
    %% An int that looks like a float stays what it is, and the other way round.
    ?assert(is_integer(back(Config, 1))),
    ?assert(is_float(back(Config, 1.0))).

text_and_bytes(Config) ->
    Text = unicode:characters_to_binary([16#61, 16#e9, 16#20ac, 16#1f600, 0, 16#10ffff]),
    ?assertEqual(Text, back(Config, Text)),
    ?assertEqual({ok, 6}, py:call(context(Config), builtins, len, [Text])),
    All = list_to_binary(lists:seq(0, 255)),
    ?assertEqual(All, back(Config, All)),
    ?assertEqual({ok, 256}, py:call(context(Config), builtins, len, [All])),
    %% Surrogates in UTF-8 are not UTF-8.
    ?assertEqual(<<"bytes b'\\xed\\xa0\\x80'">>, shown(Config, <<16#ed, 16#a0, 16#80>>)),
    ?assertMatch({error, _}, eval(Config, "'\\ud800'")),
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

atoms(Config) ->
    [?assertEqual(atom_to_binary(A), back(Config, A)) || A <- [ok, 'with space', 'ünïcödé', '日本語', '', '\'', 'True', 'None']],
    Long = list_to_atom(lists:duplicate(255, $a)),
    ?assertEqual(atom_to_binary(Long), back(Config, Long)),
    LongWide = list_to_atom(lists:duplicate(255, 16#65e5)),
    ?assertEqual(atom_to_binary(LongWide), back(Config, LongWide)).

%% What comes back is a str, as any atom; what is no name of one is refused.
atoms_of_python(Config) ->
    [
        ?assertEqual({ok, Atom}, eval(Config, ["erlang.atom('", atom_to_binary(Atom), "')"]))
     || Atom <- [ok, true, none, '', 'with space', 'é', '日本', list_to_atom(lists:duplicate(255, 16#65E5))]
    ],
    ?assertEqual({ok, {ok, [1, #{key => <<"ok">>}]}}, eval(Config, "erlang.atom('ok'), [1, {erlang.atom('key'): 'ok'}]")),
    ?assertEqual({ok, [true, false, true]}, eval(Config, "[a == erlang.atom('a') for a in [erlang.atom('a')]] + [erlang.atom('a') == 'a', len({erlang.atom('a'), erlang.atom('a')}) == 1]")),
    ?assertEqual({ok, <<"a <erlang.Atom a>">>}, eval(Config, "f\"{erlang.atom('a')} {erlang.atom('a')!r}\"")),
    [
        ?assertMatch({error, {python_error, #{type := Type}}}, eval(Config, Expression))
     || {Type, Expression} <- [
            {<<"TypeError">>, "erlang.atom(b'a')"},
            {<<"TypeError">>, "erlang.atom([])"},
            {<<"ValueError">>, "erlang.atom('a' * 256)"},
            {<<"UnicodeEncodeError">>, "erlang.atom('\\ud800')"}
        ]
    ].

%% Those that the VM has do not count.
new_atoms_are_bounded(Config) ->
    Unique = reactor_test:tag(),
    Make = fun(Expression) -> eval(Config, ["len('", Unique, "') and ", Expression]) end,
    {ok, [_ | _]} = Make(["[erlang.atom(f'", Unique, "_{n}') for n in range(9000)]"]),
    {ok, [_ | _]} = Make(["[erlang.atom(f'", Unique, "_{n}') for n in range(9000)]"]),
    ?assertMatch({error, {unsupported_term, _}}, Make(["[erlang.atom(f'", Unique, "_{n}') for n in range(10001)]"])),
    ?assertEqual({ok, ok}, eval(Config, "erlang.atom('ok')")).

opaque_terms_come_back(Config) ->
    Fun = fun(X) -> X + 1 end,
    Port = hd(erlang:ports()),
    Terms = [self(), make_ref(), Fun, fun lists:map/2, Port, erlang:make_ref(), spawn(fun() -> ok end)],
    ?assertEqual(Terms, back(Config, Terms)),
    ?assertEqual(#{self() => {Fun}}, back(Config, #{self() => {Fun}})),
    [Back] = back(Config, [Fun]),
    ?assertEqual(3, Back(2)),
    back(Config, self()) ! really_me,
    receive
        really_me -> ok
    end.

opaque_terms_in_python(Config) ->
    Ref = make_ref(),
    ?assertEqual({ok, [true, false, true, true]}, py:call(context(Config), terms, compare, [Ref, Ref, make_ref(), self()])),
    ?assertEqual({ok, <<"Pid">>}, py:call(context(Config), terms, class_name, [self()])),
    ?assertEqual({ok, <<"Ref">>}, py:call(context(Config), terms, class_name, [Ref])),
    ?assertNotEqual(nomatch, string:find(shown(Config, self()), pid_to_list(self()))),
    %% Python keeps it, and gives it back in another call.
    {ok, none} = py:call(context(Config), terms, keep, [Ref]),
    ?assertEqual({ok, Ref}, py:call(context(Config), terms, kept, [])).

nested(0, _Wrap) -> 1;
nested(Depth, Wrap) -> Wrap(nested(Depth - 1, Wrap)).

depth_is_bounded(Config) ->
    Wraps = [fun(T) -> [T] end, fun(T) -> {T} end, fun(T) -> #{1 => T} end],
    [
        begin
            Fits = nested(?DEPTH_MAX - 2, Wrap),
            ?assertEqual(Fits, back(Config, Fits)),
            [
                ?assertMatch({error, _}, py:call(context(Config), terms, identity, [nested(Depth, Wrap)]))
             || Depth <- [?DEPTH_MAX + 1, 10000, 200000]
            ]
        end
     || Wrap <- Wraps
    ],
    ?assertMatch({error, {unsupported_term, _}}, py:call(context(Config), terms, nest, [10000])),
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

cycles_are_bounded(Config) ->
    [?assertMatch({error, {unsupported_term, _}}, py:call(context(Config), terms, cycle, [Kind])) || Kind <- [list, dict]],
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

improper_lists(Config) ->
    [
        ?assertMatch({error, Reason} when Reason =/= stopped, py:call(context(Config), terms, identity, [Term]))
     || Term <- [[1 | 2], [[1, 2 | 3]], {[a | b]}, #{k => [1 | x]}]
    ],
    ?assertMatch({error, {bad_argument, args, [1 | 2], _}}, py:call(context(Config), terms, identity, [1 | 2])),
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

bitstrings(Config) ->
    ?assertMatch({error, _}, py:call(context(Config), terms, identity, [<<1:3>>])),
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

unsupported_objects(Config) ->
    [
        begin
            Result = eval(Config, Expression),
            ?assertMatch({error, {unsupported_term, Why}} when is_binary(Why), Result),
            {error, {unsupported_term, Why}} = Result,
            ?assertNotEqual(nomatch, string:find(Why, Name), {Expression, Why})
        end
     || {Expression, Name} <- [
            {"object()", "object"},
            {"[1, object()]", "object"},
            {"{'a': (object(),)}", "object"},
            {"{1, 2}", "set"},
            {"1j", "complex"},
            {"len", "builtin_function"},
            {"__import__('os')", "module"},
            {"(i for i in [])", "generator"}
        ]
    ].

keys_of_maps(Config) ->
    %% Lists and dicts are no keys in Python.
    [
        ?assertMatch({error, _}, py:call(context(Config), terms, identity, [#{Key => 1}]))
     || Key <- [[1], #{a => 1}, {[1]}]
    ],
    %% 1, 1.0 and True are one key in Python, and stay apart in Erlang.
    ?assertEqual({ok, #{1 => 2}}, eval(Config, "{1: 2}")),
    ?assertEqual({ok, 2}, eval(Config, "1 + 1")).

%% Values of subclasses are values.
subclasses(Config) ->
    ?assertEqual({ok, [5, <<"text">>, <<"bytes">>, [1], {1, 2}, #{<<"a">> => 1}]}, py:call(context(Config), terms, subclasses, [])).

large_values(Config) ->
    Binary = crypto:strong_rand_bytes(5000000),
    ?assertEqual(Binary, back(Config, {bytes, Binary})),
    List = lists:seq(1, 200000),
    ?assertEqual(List, back(Config, List)),
    Map = maps:from_list([{N, integer_to_binary(N)} || N <- lists:seq(1, 50000)]),
    ?assertEqual(Map, back(Config, Map)),
    Tuple = list_to_tuple(List),
    ?assertEqual(Tuple, back(Config, Tuple)).
