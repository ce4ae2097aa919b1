%% What Python code cannot do to the memory and the locks of the VM. Where one of these fails, the VM dies, or hangs.
-module(soundness_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, client/2, send/2, expect/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        types_are_made_once,
        buffers_keep_their_class,
        deep_terms_on_small_stacks,
        deep_answers_on_small_stacks,
        dicts_are_kept_while_they_are_searched,
        interpreters_inside_of_a_context
    ] ++ reactor_test:long([chains_of_protocols_are_released, chains_of_handles_are_released]), [
        replaced_types_change_no_layout, a_loop_is_one_of_ours
    ]).

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Config.

end_per_testcase(_Case, _Config) ->
    ok.

with_soundness(Config, Fun) ->
    with_context(Config, #{setup_code => "import soundness"}, Fun).

run(Context, Function, Args) ->
    {ok, Answer} = py:call(Context, soundness, Function, Args),
    Answer.

%% The module is shared by the contexts of the main interpreter: another one starts after its types were replaced.
replaced_types_change_no_layout(Config) ->
    with_soundness(Config, fun(Context) ->
        Code = [reactor_test:factory("streams.Echo"), "import streams"],
        none = run(Context, replace_types, []),
        try
            with_context(Config, #{setup_code => Code}, fun(Other) ->
                [
                    begin
                        {Client, _} = client(Other, Config),
                        send(Client, <<"data">>),
                        expect(Client, <<"data">>)
                    end
                 || _ <- lists:seq(1, 5)
                ]
            end)
        after
            none = run(Context, restore_types, [])
        end
    end).

types_are_made_once(Config) ->
    with_soundness(Config, fun(Context) ->
        ?assertEqual([true, true, true, true], run(Context, types_made_again, []))
    end).

buffers_keep_their_class(Config) ->
    with_soundness(Config, fun(Context) ->
        ?assertEqual(0, run(Context, classes_changed, []))
    end).

chains_of_protocols_are_released(Config) ->
    with_soundness(Config, fun(Context) ->
        [
            ?assertEqual({Kind, Classes, 2}, {Kind, Classes, run(Context, release_chain, [Kind, Classes])})
         || Kind <- [client_info, write_buffer, dict, tuple, both], Classes <- [plain, sub, mixed]
        ]
    end).

chains_of_handles_are_released(Config) ->
    with_soundness(Config, fun(Context) ->
        ?assertEqual(1, run(Context, release_handles, []))
    end).

%% By who searches. Who looks again sees the dict that is there by then.
dicts_are_kept_while_they_are_searched(Config) ->
    with_soundness(Config, fun(Context) ->
        ?assertMatch([1 | _], run(Context, replace_dict_while_it_is_searched, []))
    end).

%% In an interpreter of its own: the module is shared by the contexts of the main one.
a_loop_is_one_of_ours(_Config) ->
    Path = [reactor_test:python_path()],
    Options = #{backend => epoll, python_path => Path, setup_code => "import soundness\nsoundness.replace_loop_maker()"},
    {ok, Context} = py_reactor_context:start_link(reactor_test:new_id(), subinterp, Options),
    ?assertEqual(<<"none">>, run(Context, made_loop, [])),
    %% Its turns go on.
    ?assertEqual({ok, 42}, py:eval(Context, "6 * 7")),
    ok = py_reactor_context:stop(Context).

deep_terms_on_small_stacks(Config) ->
    with_soundness(Config, fun(Context) ->
        [
            begin
                Answer = run(Context, send_from_small_thread, [self(), Depth, Kind, KiB]),
                ?assert(lists:member(Answer, [none, <<"RecursionError">>]))
            end
         || KiB <- [32, 48, 64, 128], Depth <- [1, 100, 500], Kind <- [list, tuple, dict]
        ],
        %% What is not deep goes from any thread.
        ?assertEqual(none, run(Context, send_from_small_thread, [self(), 5, list, 32]))
    end).

deep_answers_on_small_stacks(Config) ->
    ok = py:register_function(soundness_nested, fun nested/2),
    try
        with_soundness(Config, fun(Context) ->
            [
                begin
                    Answer = run(Context, call_from_small_thread, [Depth, Kind, KiB]),
                    ?assert(lists:member(Answer, [true, <<"TypeError">>, <<"RecursionError">>]))
                end
             || KiB <- [32, 64, 128], Depth <- [1, 100, 500], Kind <- [list, tuple, dict]
            ],
            ?assertEqual(true, run(Context, call_from_small_thread, [5, list, 48]))
        end)
    after
        py:unregister_function(soundness_nested)
    end.

nested(Depth, Kind) ->
    lists:foldl(fun(_, Value) -> nest(Kind, Value) end, 1, lists:seq(1, Depth)).

nest(<<"list">>, Value) -> [Value];
nest(<<"tuple">>, Value) -> {Value};
nest(<<"dict">>, Value) -> #{value => Value}.

interpreters_inside_of_a_context(Config) ->
    Name = ?MODULE,
    true = register(Name, self()),
    try
        with_soundness(Config, fun(Context) ->
            [inside(Context, Function, Name) || Function <- [inside_another, inside_another_on_a_thread]]
        end)
    after
        unregister(Name)
    end.

inside(Context, Function, Name) ->
    Did = run(Context, Function, [Name]),
    ?assertMatch(
        #{
            <<"program">> := <<"PermissionError">>,
            <<"self">> := <<"RuntimeError">>,
            <<"send">> := <<"None">>,
            <<"signal">> := <<"False">>,
            <<"by_hand">> := <<"(4, b'data')">>,
            <<"chain">> := <<"None">>,
            <<"base">> := <<"'continue'">>
        },
        Did
    ),
    receive
        <<"from inside">> -> ok
    after 30000 -> ct:fail(no_message)
    end,
    %% Neither this context nor its factory was meant.
    ?assertEqual({ok, none}, py:eval(Context, "__import__('_py_reactor').get_protocol_factory()")).
