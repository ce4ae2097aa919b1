%% asyncio's stream transports over the driver of a context: the scenarios of test/protocols/transports.py, which
%% test/asyncio/transports.py runs in a plain Python, and what becomes of transports when their context stops.
-module(transports_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, wait_equal/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        all_scenarios,
        a_thousand_leave_nothing,
        stop_closes_what_is_left_of_them,
        stop_closes_who_is_paused,
        tasks_have_their_transports_until_they_end,
        a_stop_waits_for_no_reader_for_ever,
        a_kill_closes_them,
        drain_leaves_them_alone,
        stats_and_the_list
    ]).

all_scenarios(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Names} = py:call(Context, transports, names, []),
        true = register(transports, self()),
        [?assertEqual({Name, <<"ok">>}, {Name, run(Context, Name)}) || Name <- Names, Name =/= <<"a_thousand_come_and_go">>],
        wait_equal(0, fun() -> transports(Context) end)
    end).

a_thousand_leave_nothing(Config) ->
    with_context(Config, #{}, fun(Context) ->
        true = register(transports, self()),
        ?assertEqual(<<"ok">>, run(Context, <<"a_thousand_come_and_go">>)),
        wait_equal(0, fun() -> transports(Context) end)
    end).

%% Nobody has closed it: that is done after the tasks have ended.
stop_closes_what_is_left_of_them(Config) ->
    {Context, Client} = with_echo(Config),
    ok = gen_tcp:send(Client, "still there"),
    {ok, <<"still there">>} = gen_tcp:recv(Client, 11, 30000),
    ok = py_reactor_context:stop(Context),
    ?assertEqual({error, closed}, gen_tcp:recv(Client, 0, 30000)),
    ?assertEqual([<<"lost None">>], said()).

%% One that its program alone keeps.
stop_closes_who_is_paused(Config) ->
    {Context, Client} = with_echo(Config),
    ok = py:exec(Context, <<"import transports_ending; transports_ending.pause()">>),
    % A turn later its connection has let go of it.
    ok = py:exec(Context, <<"import gc; gc.collect()">>),
    ok = py_reactor_context:stop(Context),
    ?assertEqual({error, closed}, gen_tcp:recv(Client, 0, 30000)),
    ?assertEqual([<<"lost None">>], said()).

tasks_have_their_transports_until_they_end(Config) ->
    {Context, Client} = with_echo(Config),
    ok = py:exec(Context, <<"import transports_ending; transports_ending.say_goodbye()">>),
    ok = py_reactor_context:stop(Context),
    ?assertEqual({ok, <<"goodbye">>}, gen_tcp:recv(Client, 0, 30000)),
    ?assertEqual({error, closed}, gen_tcp:recv(Client, 0, 30000)),
    ?assertEqual([<<"lost None">>], said()).

%% What was written and nobody reads is thrown away when the time is over.
a_stop_waits_for_no_reader_for_ever(Config) ->
    {Context, _Client} = with_echo(Config),
    ok = py:exec(Context, <<"import transports_ending; transports_ending.write_much()">>),
    Before = erlang:monotonic_time(millisecond),
    ok = py_reactor_context:stop(Context, 300),
    ?assert(erlang:monotonic_time(millisecond) - Before < 20000),
    ?assertEqual([<<"lost None">>], said()).

a_kill_closes_them(Config) ->
    {Context, Client} = with_echo(Config),
    Monitor = erlang:monitor(process, Context),
    unlink(Context),
    exit(Context, kill),
    receive {'DOWN', Monitor, process, Context, _} -> ok end,
    ?assertMatch({error, _}, gen_tcp:recv(Client, 0, 20000)).

drain_leaves_them_alone(Config) ->
    {Context, Client} = with_echo(Config),
    ok = py_reactor_context:drain(Context, 5000),
    ok = gen_tcp:send(Client, "drained"),
    ?assertEqual({ok, <<"drained">>}, gen_tcp:recv(Client, 7, 30000)),
    ok = py_reactor_context:stop(Context).

stats_and_the_list(Config) ->
    {Context, Client} = with_echo(Config),
    ?assertMatch(#{transports := 1, connections := 0, accepted := 0}, py_reactor_context:stats(Context)),
    ok = gen_tcp:send(Client, "counted"),
    {ok, <<"counted">>} = gen_tcp:recv(Client, 7, 30000),
    [Listed] = py_reactor_context:connections(Context),
    ?assertMatch(
        #{class := <<"transports_ending.Echo">>, client_info := undefined, state := read, received := 7, sent := 7}, Listed
    ),
    ?assertMatch(#{messages := 1, bytes_in := 7, bytes_out := 7}, py_reactor_context:stats(Context)),
    %% It is nobody's who names it by its number.
    #{fd := Fd} = Listed,
    ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:send(Context, Fd, <<"x">>)),
    ok = gen_tcp:close(Client),
    wait_equal(0, fun() -> transports(Context) end),
    ?assertMatch(#{closed := 0, connections := 0}, py_reactor_context:stats(Context)),
    ok = py_reactor_context:stop(Context).

%% A context whose loop serves an echo, and a client of it.
with_echo(Config) ->
    {ok, Context} = py_reactor_context:start_link(reactor_test:new_id(), reactor_test:mode(Config), reactor_test:options(Config, #{})),
    true = register(transports, self()),
    ok = py:exec(Context, <<"import transports_ending; transports_ending.serve()">>),
    Port = receive Number when is_integer(Number) -> Number after 30000 -> error(timeout) end,
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {recbuf, 4096}]),
    wait_equal({ok, true}, fun() -> py:eval(Context, "erlang.event_loop() in __import__('transports_ending').connected") end),
    ?assertEqual(1, transports(Context)),
    {Context, Client}.

said() ->
    receive
        Said -> [Said | said()]
    after 0 -> []
    end.

transports(Context) ->
    maps:get(transports, py_reactor_context:stats(Context)).

run(Context, Name) ->
    {ok, none} = py:call(Context, transports, run, [transports, Name]),
    receive
        Said when is_binary(Said) -> Said
    after 60000 -> timeout
    end.
