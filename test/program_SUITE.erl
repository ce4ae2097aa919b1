%% What a Python program relies on at its end: that nothing is lost which it left to that, and that its last words are heard.
%%
%% Where the end of a VM matters, another VM is started.
-module(program_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [new_id/0, wait_until/1]).

%% In the main interpreter, which goes on, and in one that ends.
all() ->
    [{group, worker}, {group, subinterp}].

groups() ->
    Cases = [
        the_application_stops_again_and_again,
        a_killed_context,
        many_contexts,
        the_vm_stops,
        the_vm_restarts,
        a_destructor_prints,
        threads_print
    ],
    [{worker, [], Cases ++ [an_endless_function_is_interrupted]}, {subinterp, [], Cases}].

init_per_group(Mode, Config) ->
    [{mode, Mode} | Config].

end_per_group(_Group, _Config) ->
    ok.

init_per_testcase(Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Directory = filename:join([
        proplists:get_value(priv_dir, Config), proplists:get_value(mode, Config), atom_to_list(Case) ++ integer_to_list(new_id())
    ]),
    [{directory, filename:absname(Directory)} | Config].

end_per_testcase(_Case, _Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    ok.

start(Config) ->
    Id = new_id(),
    Options = #{python_path => [reactor_test:python_path()], setup_code => "import last_words"},
    {ok, Context} = py_reactor:start_context(Id, proplists:get_value(mode, Config), Options),
    {Id, Context}.

%% A directory, and what is to be in it in the end.
prepare(Id, Config) ->
    Directory = unicode:characters_to_binary(filename:join(proplists:get_value(directory, Config), integer_to_list(new_id()))),
    ok = filelib:ensure_dir(filename:join(Directory, "x")),
    {ok, Expected} = py:call(Id, last_words, prepare, [Directory]),
    {Directory, Expected}.

nothing_is_lost({Directory, Expected}) ->
    [?assertEqual({Name, Text}, {Name, content(Directory, Name)}) || {Name, Text} <- maps:to_list(Expected)],
    {ok, _} = application:ensure_all_started(py_reactor),
    {ok, Context} = py_reactor_context:start_link(new_id(), worker, #{
        python_path => [reactor_test:python_path()], setup_code => "import last_words"
    }),
    ?assertEqual({ok, <<"of a module">>}, py:call(Context, last_words, unzip, [filename:join(Directory, "zipped")])),
    ok = py_reactor_context:stop(Context).

content(Directory, Name) ->
    case file:read_file(filename:join(Directory, Name)) of
        {ok, Text} -> Text;
        {error, enoent} -> <<>>;
        {error, _} = Error -> Error
    end.

%% What modules registered when they were imported is there the second time, too.
the_application_stops_again_and_again(Config) ->
    [
        begin
            {Id, _} = start(Config),
            Prepared = prepare(Id, Config),
            ok = application:stop(py_reactor),
            nothing_is_lost(Prepared),
            ok = application:stop(py_reactor),
            {ok, _} = application:ensure_all_started(py_reactor)
        end
     || _ <- [1, 2, 3]
    ].

a_killed_context(Config) ->
    ok = application:stop(py_reactor),
    Threads = os_resources:threads_of_contexts(),
    {ok, _} = application:ensure_all_started(py_reactor),
    {Id, Context} = start(Config),
    Prepared = prepare(Id, Config),
    true = exit(Context, kill),
    wait_until(fun() -> py:eval(Id, "1") =:= {ok, 1} end),
    ok = application:stop(py_reactor),
    %% An interpreter that was killed ends by itself.
    wait_until(fun() -> os_resources:threads_of_contexts() =< Threads end),
    nothing_is_lost(Prepared).

many_contexts(Config) ->
    Prepared = [prepare(element(1, start(Config)), Config) || _ <- lists:seq(1, 8)],
    ok = application:stop(py_reactor),
    [nothing_is_lost(One) || One <- Prepared].

an_endless_function_is_interrupted(Config) ->
    {Id, _} = start(Config),
    Directory = unicode:characters_to_binary(proplists:get_value(directory, Config)),
    ok = filelib:ensure_dir(filename:join(Directory, "x")),
    {ok, none} = py:call(Id, last_words, prepare_endless, [Directory]),
    ok = application:stop(py_reactor),
    ?assertEqual(<<"ran">>, content(Directory, "begun")),
    ?assertEqual(<<"ran">>, content(Directory, "after")).

the_vm_stops(Config) ->
    Prepared = other_vm(Config, fun(Directory) -> start_code(Config) ++ prepare_code(Directory) ++ "init:stop()" end),
    nothing_is_lost(Prepared).

%% What is registered before is run before, and not again.
the_vm_restarts(Config) ->
    Prepared = other_vm(Config, fun(Directory) ->
        First = filename:join(Directory, "first"),
        start_code(Config) ++
            "case filelib:is_file(\"" ++ First ++ "\") of"
            "    false ->"
            "        ok = py:exec(7, \"import atexit\nf = open('" ++ First ++ "', 'a')\natexit.register(f.write, 'restarted')\"),"
            "        init:restart();"
            "    true ->" ++ prepare_code(Directory) ++ " init:stop() "
            "end"
    end),
    ?assertEqual(<<"restarted">>, content(element(1, Prepared), "first")),
    nothing_is_lost(Prepared).

start_code(Config) ->
    lists:flatten(
        io_lib:format(
            "{ok, _} = py_reactor:start_context(7, ~s, #{python_path => [\"~ts\"], setup_code => \"import last_words\"}),",
            [proplists:get_value(mode, Config), reactor_test:python_path()]
        )
    ).

prepare_code(Directory) ->
    "{ok, Expected} = py:call(7, last_words, prepare, [<<\"" ++ Directory ++ "\">>]),"
    "io:format(\"~nexpected ~0p.~n\", [Expected]),".

other_vm(Config, Code) ->
    Directory = proplists:get_value(directory, Config),
    ok = filelib:ensure_dir(filename:join(Directory, "x")),
    {Port, _} = interpreter_SUITE:vm([], Code(Directory), [eof]),
    %% The console of the VM and that of Python are two: which comes first is anybody's guess.
    Lines = rest(Port),
    ?assertMatch([_ | _], [Line || Line <- Lines, string:find(Line, "the last words") =/= nomatch], Lines),
    [Text] = [Text || <<"expected ", Text/binary>> <- Lines],
    {ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
    {ok, Expected} = erl_parse:parse_term(Tokens),
    {unicode:characters_to_binary(Directory), Expected}.

rest(Port) ->
    receive
        {Port, {data, {_, Line}}} -> [Line | rest(Port)];
        {Port, eof} ->
            ?assertEqual(0, interpreter_SUITE:exit_status(Port)),
            []
    after 60000 -> error(silent)
    end.

a_destructor_prints(Config) ->
    Lines = printed(Config, "print_in_destructors", 300),
    ?assertEqual(6 * 300, length([Line || <<"line ", _/binary>> = Line <- Lines])),
    ?assertEqual(6 * 300, length([Line || <<"gone">> = Line <- Lines])).

%% Whole lines, and as many as there are.
threads_print(Config) ->
    Lines = printed(Config, "print_in_threads", 100),
    Words = [Line || Line <- Lines, re:run(Line, "^(line \\d+|gone)$") =/= nomatch],
    ?assertEqual(2 * 3 * 6 * 100, length(Words) + inner(Lines -- Words)).

%% A destructor may print between two parts of a line.
inner(Lines) ->
    lists:sum([length(re:split(Line, "line|gone")) - 1 || Line <- Lines]).

printed(Config, Function, Count) ->
    Code =
        start_code(Config) ++
            lists:flatten(io_lib:format("Wrong = py:call(7, last_words, ~s, [~b]),", [Function, Count])) ++
            "io:format(\"~nwrong ~0p~nfinished~n\", [Wrong]), receive stop -> ok end",
    {Port, Pid} = interpreter_SUITE:vm([], Code, []),
    Lines = interpreter_SUITE:lines(Port),
    _ = os:cmd("kill -KILL " ++ Pid),
    [Wrong] = [Rest || <<"wrong ", Rest/binary>> <- Lines],
    ?assert(lists:member(Wrong, [<<"{ok,[]}">>, <<"{ok,none}">>])),
    Lines -- [<<"wrong ", Wrong/binary>>].
