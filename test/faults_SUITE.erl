%% What a callback does wrong is logged, and costs its own connection and nothing else.
-module(faults_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/3, send/2, expect/2, expect_eof/1, methods/2, wait_lost/2, wait_until/1]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        illegal_answers_of_data_received,
        illegal_answers_of_write_ready,
        coroutines_where_nothing_is_answered,
        illegal_answers_of_eof_received,
        exception_in_data_received,
        exception_in_write_ready,
        exception_in_eof_received,
        exception_in_connection_made,
        exception_in_connection_lost,
        exceptions_beyond_exception,
        exception_after_writing_still_delivers,
        exception_that_cannot_be_shown,
        missing_data_received,
        thousands_of_faults
    ], [], [
        answers_that_cannot_be_scripted
    ]).

%% Runs one connection into its fault beside a neighbour, which must not notice. Answers {Level, Line, Meta}.
fault(Config, Script, Provoke, Texts) ->
    fault(Config, "recorder.Scripted", #{script => Script}, Provoke, Texts).

fault(Config, Factory, Info, Provoke, Texts) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Neighbour, _} = client(Context, Config, #{script => #{data_received => [{<<"ok">>, continue}]}}),
        send(Neighbour, <<"1">>),
        expect(Neighbour, <<"ok">>),
        ok = py:exec(Context, reactor_test:factory(Factory)),
        {Client, Tag} = client(Context, Config, Info),
        Provoke(Client),
        expect_eof(Client),
        Log = log_collector:await(id(Context), Texts),
        wait_until(fun() -> maps:get(exceptions, py_reactor_context:stats(Context)) =:= 1 end),
        send(Neighbour, <<"2">>),
        expect(Neighbour, <<"ok">>),
        reactor_test:wait_connections(Context, 1),
        {Log, methods(Context, Tag)}
    end).

id(Context) ->
    {ok, Id} = py_reactor_table:id(Context),
    Id.

talk(Client) ->
    send(Client, <<"x">>).

finish(Client) ->
    ok = gen_tcp:shutdown(Client, write).

illegal(Config, Method, Script, Provoke, Answer, Shown) ->
    Texts = ["recorder.Scripted." ++ Method, Shown, "must return one of"],
    {{Level, _Line, Meta}, Methods} = fault(Config, Script(Answer), Provoke, Texts),
    ?assertEqual(error, Level),
    ?assertMatch(#{class := <<"recorder.Scripted">>, peer := <<"127.0.0.1:4711">>, fd := Fd} when is_integer(Fd), Meta),
    ?assertEqual(list_to_binary(Method), maps:get(method, Meta)),
    ?assertEqual(<<"connection_lost">>, lists:last(Methods)).

answers() ->
    [
        {none, "None (is a return statement missing?)"},
        {<<"unknown">>, "'unknown'"},
        {<<"Continue">>, "'Continue'"},
        {42, "42"},
        {true, "True"},
        {[], "[]"}
    ].

illegal_answers_of_data_received(Config) ->
    Script = fun(Answer) -> #{data_received => [{<<>>, Answer}]} end,
    [illegal(Config, "data_received", Script, fun talk/1, Answer, Shown) || {Answer, Shown} <- answers()].

illegal_answers_of_write_ready(Config) ->
    Script = fun(Answer) -> #{data_received => [{<<>>, write_pending}], write_ready => [{<<>>, Answer}]} end,
    [illegal(Config, "write_ready", Script, fun talk/1, Answer, Shown) || {Answer, Shown} <- answers()].

%% What is said is short and helps, however large the answer is; its own code is not asked.
answers_that_cannot_be_scripted(Config) ->
    [
        begin
            {{error, _, Meta}, _} =
                fault(Config, "faults.Answers", #{answers => Answer}, fun talk/1, ["faults.Answers.data_received returned " ++ Shown]),
            ?assertMatch(#{class := <<"faults.Answers">>, method := <<"data_received">>}, Meta)
        end
     || {Answer, Shown} <- [
            {generator, "a generator (the method contains `yield`"},
            {asynchronous_generator, "an async_generator (the method contains `yield`"},
            {bytes, "b'close' (an action is a str, not bytes)"},
            {many, "a list of length 3000000; it must"},
            {long, "'" ++ lists:duplicate(80, $x) ++ "'...; it must"},
            {number, "an int of more than 64 bits; it must"},
            {endless, "an object of class faults.Endless; it must"},
            {subclass, "an object of class faults.Text; it must"},
            {metaclass, "an object of class faults.Deceptive; it must"}
        ]
    ],
    ok.

%% They answer nothing, but a coroutine is never run, and whoever wrote it does not know.
coroutines_where_nothing_is_answered(Config) ->
    Shown = "a coroutine (the method is `async def`",
    {_, Made} = fault(Config, "faults.AsyncMade", #{}, fun(_) -> ok end, ["faults.AsyncMade.connection_made returned " ++ Shown]),
    ?assertEqual([<<"connection_made">>], Made),
    {_, Lost} = fault(Config, "faults.AsyncLost", #{}, fun finish/1, ["faults.AsyncLost.connection_lost returned " ++ Shown]),
    ?assertEqual(<<"connection_lost">>, lists:last(Lost)).

illegal_answers_of_eof_received(Config) ->
    Script = fun(Answer) -> #{eof_received => [{<<>>, Answer}]} end,
    [illegal(Config, "eof_received", Script, fun finish/1, Answer, Shown) || {Answer, Shown} <- answers()].

raises(Config, Method, Script, Provoke) ->
    Texts = ["recorder.Scripted." ++ Method ++ " raised", "Traceback (most recent call last)", "recorder.py", "RuntimeError: oops"],
    {{Level, _Line, Meta}, Methods} = fault(Config, Script, Provoke, Texts),
    ?assertEqual(error, Level),
    ?assertEqual(list_to_binary(Method), maps:get(method, Meta)),
    ?assertMatch(#{class := <<"recorder.Scripted">>, peer := <<"127.0.0.1:4711">>, fd := Fd} when is_integer(Fd), Meta),
    Methods.

exception_in_data_received(Config) ->
    Methods = raises(Config, "data_received", #{data_received => [{<<>>, {raise, oops}}]}, fun talk/1),
    ?assertEqual([<<"connection_made">>, <<"data_received">>, <<"connection_lost">>], Methods).

exception_in_write_ready(Config) ->
    Script = #{data_received => [{<<>>, write_pending}], write_ready => [{<<>>, {raise, oops}}]},
    Methods = raises(Config, "write_ready", Script, fun talk/1),
    ?assertEqual([<<"connection_made">>, <<"data_received">>, <<"write_ready">>, <<"connection_lost">>], Methods).

exception_in_eof_received(Config) ->
    Methods = raises(Config, "eof_received", #{eof_received => [{<<>>, {raise, oops}}]}, fun finish/1),
    ?assertEqual([<<"connection_made">>, <<"eof_received">>, <<"connection_lost">>], Methods).

%% It did not return, so there is no connection to be lost.
exception_in_connection_made(Config) ->
    Methods = raises(Config, "connection_made", #{connection_made => [{<<>>, {raise, oops}}]}, fun(_Client) -> ok end),
    ?assertEqual([<<"connection_made">>], Methods).

exception_in_connection_lost(Config) ->
    Methods = raises(Config, "connection_lost", #{connection_lost => [{<<>>, {raise, oops}}]}, fun finish/1),
    ?assertEqual([<<"connection_made">>, <<"eof_received">>, <<"connection_lost">>], Methods).

%% SystemExit, KeyboardInterrupt and the like end the connection, not the thread, the context or the VM.
exceptions_beyond_exception(Config) ->
    serving(Config, "faults.Raises", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config, #{raises => Name}),
                send(Client, <<"x">>),
                expect_eof(Client),
                _ = log_collector:await(id(Context), ["faults.Raises.data_received", Text]),
                wait_lost(Context, Tag)
            end
         || {Name, Text} <- [
                {'SystemExit', "SystemExit"},
                {'KeyboardInterrupt', "KeyboardInterrupt"},
                {'GeneratorExit', "GeneratorExit"},
                {'MemoryError', "MemoryError"},
                {'RecursionError', "RecursionError"},
                {'StopIteration', "StopIteration"}
            ]
        ],
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

exception_after_writing_still_delivers(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        Script = #{data_received => [{<<"half a response">>, {raise, oops}}]},
        {Client, Tag} = client(Context, Config, #{script => Script}),
        send(Client, <<"x">>),
        ?assertEqual(<<"half a response">>, reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

exception_that_cannot_be_shown(Config) ->
    serving(Config, "faults.Raises", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{raises => 'Unshowable'}),
        send(Client, <<"x">>),
        expect_eof(Client),
        _ = log_collector:await(id(Context), ["faults.Raises.data_received", "Unshowable"]),
        {Other, OtherTag} = client(Context, Config, #{raises => 'ReturnsUnshowable'}),
        send(Other, <<"x">>),
        expect_eof(Other),
        _ = log_collector:await(id(Context), ["faults.Raises.data_received returned an object of class faults.NoRepr"]),
        wait_lost(Context, Tag),
        wait_lost(Context, OtherTag)
    end).

missing_data_received(Config) ->
    serving(Config, "faults.Empty", fun(Context) ->
        {Client, _} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        expect_eof(Client),
        _ = log_collector:await(id(Context), ["NotImplementedError", "Empty must define data_received(self, data)"])
    end).

%% The log is limited, and says how much it left out; the context serves on.
thousands_of_faults(Config) ->
    serving(Config, "faults.Raises", fun(Context) ->
        {Client, _} = client(Context, Config, #{raises => 'SystemExit'}),
        Clients = [element(1, client(Context, Config, #{raises => 'ValueError'})) || _ <- lists:seq(1, 500)],
        %% Together, however long it takes to send.
        Gate = reactor_test:hold(Context),
        [send(C, <<"x">>) || C <- Clients],
        Gate ! open,
        [expect_eof(C) || C <- Clients],
        ?assertEqual(500, maps:get(exceptions, py_reactor_context:stats(Context))),
        _ = log_collector:await(id(Context), ["suppressed", "further log lines"]),
        send(Client, <<"x">>),
        expect_eof(Client)
    end).
