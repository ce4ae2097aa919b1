%% What Python code may do wrong, or on purpose, without harm to anything but itself. Each case was once a defect.
-module(hostile_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, with_context/3, client/2, send/2, expect/2, expect_eof/1, tag/0, wait_event/3, wait_equal/2]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        forged_protocols_are_refused,
        a_failed_factory_ends_a_socket_that_others_hold,
        a_huge_read_by_hand_reads_what_is_there,
        children_can_be_terminated,
        signals_are_not_lost_in_a_crowd,
        an_early_signal_is_not_kept,
        write_ready_of_the_instance_counts,
        write_of_the_instance_counts,
        a_dict_may_change_while_it_is_converted,
        nothing_is_taken_after_a_stop
    ], [
        a_blocking_read_by_hand_stops_nobody_else,
        a_kill_ends_a_send_that_was_only_planned
    ], [
        shared_parts_are_counted
    ]).

forged_protocols_are_refused(Config) ->
    [
        serving(Config, "hostile." ++ Class, fun(Context) ->
            {Client, _} = client(Context, Config),
            expect_eof(Client),
            {ok, Id} = py_reactor_table:id(Context),
            {error, _, _} = log_collector:await(Id, ["not an instance of erlang.reactor.Protocol"]),
            ?assertEqual({ok, 2}, py:eval(Context, <<"1 + 1">>))
        end)
     || Class <- ["ForgedBytes", "ForgedSlots"]
    ].

%% The port belongs to another process and stays open; the handoff was answered `ok'.
a_failed_factory_ends_a_socket_that_others_hold(Config) ->
    serving(Config, "hostile.raising_factory", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        Holder = spawn_link(fun() -> receive stop -> ok end end),
        ok = gen_tcp:controlling_process(Server, Holder),
        {ok, Fd} = inet:getfd(Server),
        ok = py_reactor_context:handoff(Context, Fd, #{type => tcp}),
        expect_eof(Client),
        ?assert(is_list(erlang:port_info(Server))),
        Holder ! stop
    end).

a_huge_read_by_hand_reads_what_is_there(Config) ->
    with_hostile(Config, fun(Context) ->
        ?assertEqual({ok, <<"there">>}, py:call(Context, hostile, read_hugely, []))
    end).

a_blocking_read_by_hand_stops_nobody_else(Config) ->
    with_hostile(Config, fun(Context) ->
        with_hostile(Config, fun(Other) ->
            Self = self(),
            Name = tag(),
            Reader = spawn_link(fun() -> Self ! {self(), py:call(Context, hostile, read_blockingly, [Name])} end),
            wait_equal({ok, true}, fun() -> py:call(Other, hostile, is_waiting, [Name]) end),
            {ok, none} = py:call(Other, hostile, unblock, [Name]),
            receive
                {Reader, Answer} -> ?assertEqual({ok, <<"at last">>}, Answer)
            after 30000 -> ct:fail(nobody_else_ran)
            end
        end)
    end).

%% On a pipe: no shutdown of a socket ends a send that nobody cancels.
a_kill_ends_a_send_that_was_only_planned(Config) ->
    {ok, Context} = start_unlinked(Config, "hostile.SlowFlood"),
    {ok, {_Read, Write}} = py:call(Context, kinds, pipe, []),
    {ok, _, Ctx} = py_context_lookup:resolve(Context),
    Tag = tag(),
    with_hostile(Config, fun(Other) ->
        ok = py_reactor_context:handoff(Context, Write, #{tag => Tag}),
        wait_event(Other, Tag, <<"write_ready">>),
        Monitor = monitor(process, Context),
        exit(Context, kill),
        receive {'DOWN', Monitor, process, Context, killed} -> ok end,
        {ok, none} = py:call(Other, recorder, release, [Tag]),
        wait_equal(0, fun() -> maps:get(connections, py_nif:stats(Ctx)) end)
    end).

children_can_be_terminated(Config) ->
    reactor_test:allowing_subprocess(fun() ->
        with_hostile(Config, fun(Context) ->
            ?assertEqual({ok, true}, py:call(Context, hostile, terminate_a_child, []))
        end)
    end).

%% More than the queue of commands holds.
signals_are_not_lost_in_a_crowd(Config) ->
    serving(Config, "hostile.Later", fun(Context) ->
        [{One, OneTag}, {Two, TwoTag}] = [client(Context, Config) || _ <- [one, two]],
        [begin send(Client, <<"x">>), wait_event(Context, Tag, <<"data_received">>) end
         || {Client, Tag} <- [{One, OneTag}, {Two, TwoTag}]],
        ?assertEqual({ok, true}, py:call(Context, hostile, signal_many, [OneTag, 20000, TwoTag])),
        [expect(Client, <<"x">>) || Client <- [One, Two]]
    end).

an_early_signal_is_not_kept(Config) ->
    serving(Config, "hostile.SignalsTooEarly", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"x">>),
        wait_event(Context, Tag, <<"data_received">>),
        %% Whatever the signal started would have come before the answer to this.
        {ok, _} = py:eval(Context, <<"1">>),
        ?assertEqual({error, timeout}, gen_tcp:recv(Client, 1, 50)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect(Client, <<"x">>)
    end).

write_ready_of_the_instance_counts(Config) ->
    serving(Config, "hostile.OwnWriteReady", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        ?assertEqual(<<"mine">>, reactor_test:receive_all(Client))
    end).

write_of_the_instance_counts(Config) ->
    serving(Config, "hostile.OwnWrite", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"X">>)
    end).

a_dict_may_change_while_it_is_converted(Config) ->
    with_hostile(Config, fun(Context) ->
        Big = 1 bsl 80,
        ?assertMatch({ok, #{<<"one">> := Big, <<"two">> := Big}}, py:call(Context, hostile, changing_dict, [])),
        ?assertEqual({ok, 2}, py:eval(Context, <<"1 + 1">>))
    end).

shared_parts_are_counted(Config) ->
    with_hostile(Config, fun(Context) ->
        ?assertMatch({ok, _}, py:call(Context, hostile, doubling, [10])),
        ?assertMatch({error, {unsupported_term, _}}, py:call(Context, hostile, doubling, [40]))
    end).

%% The thread is busy, so that both wait in its queue; what comes after the stop is refused at once.
nothing_is_taken_after_a_stop(Config) ->
    {ok, Context} = start_unlinked(Config, "recorder.Recording"),
    {ok, _, Ctx} = py_context_lookup:resolve(Context),
    ok = py_nif:context_stop(Ctx, 0),
    {Client, Server} = reactor_test:pair(Config),
    ?assertEqual({error, stopped}, py_reactor_context:handoff(Context, Server, #{})),
    %% The caller keeps what was refused.
    ok = gen_tcp:send(Server, <<"still mine">>),
    expect(Client, <<"still mine">>),
    exit(Context, kill).

%% Contexts.

with_hostile(Config, Fun) ->
    with_context(Config, #{setup_code => "import hostile, recorder, kinds"}, Fun).

start_unlinked(Config, Factory) ->
    Options = reactor_test:options(Config, #{setup_code => reactor_test:factory(Factory)}),
    {ok, Context} = py_reactor_context:start_link(reactor_test:new_id(), reactor_test:mode(Config), Options),
    unlink(Context),
    {ok, Context}.
