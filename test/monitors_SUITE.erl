%% Processes that watch connections are told why they ended.
-module(monitors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, serving/4, client/3, send/2, expect/2, expect_eof/1, wait_event/3, wait_lost/2, wait_equal/2]).

-include("reactor_suite.hrl").

-define(ECONNRESET, 104).

groups() ->
    reactor_test:backend_groups([
        closed_by_the_protocol,
        closed_by_erlang,
        closed_by_the_peer,
        reset_by_the_peer,
        idle,
        stalled,
        exception,
        drained,
        stopped,
        killed,
        no_connection,
        after_connection_lost,
        by_handle,
        many_watchers,
        watchers_are_bounded,
        demonitored,
        watches_of_the_dead_are_forgotten,
        from_another_node,
        the_node_goes_away
    ]).

%% Fun(Context, Client, Tag, Fd) makes the connection end; the watcher hears Reason.
ends(Config, Reason, Options, Script, Fun) ->
    serving(Config, "mailed.Mailed", Options, fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, Script),
        Monitor = py_reactor_context:monitor_connection(Context, Fd),
        Fun(Context, Client, Tag, Fd),
        hears(Reason, Monitor, Fd),
        gen_tcp:close(Client)
    end).

hears(Reason, Monitor, Fd) ->
    ?assertEqual(Reason, await_down(Monitor, Fd)),
    %% The protocol knows it, too.
    receive
        {<<"lost">>, Fd, Told, Errno} ->
            ?assertEqual(atom_to_binary(Reason), Told),
            ?assertEqual(maps:get(Reason, #{reset => ?ECONNRESET}, 0), Errno)
    after 30000 -> error(not_told)
    end.

served(Context, Config, Script) ->
    {Client, Tag} = client(Context, Config, #{script => Script, watcher => self()}),
    wait_event(Context, Tag, <<"connection_made">>),
    {Client, Tag, mailed_test:fd(Context, Tag)}.

await_down(Monitor, Fd) ->
    receive
        {py_connection_down, Monitor, Fd, Reason} -> Reason
    after 30000 -> error({not_told, process_info(self(), messages)})
    end.

closed_by_the_protocol(Config) ->
    ends(Config, closed, #{}, #{data_received => [{<<>>, close}]}, fun(_Context, Client, _Tag, _Fd) ->
        send(Client, <<"x">>)
    end).

closed_by_erlang(Config) ->
    ends(Config, closed, #{}, #{}, fun(Context, _Client, _Tag, Fd) ->
        ok = py_reactor_context:close(Context, Fd)
    end).

closed_by_the_peer(Config) ->
    ends(Config, peer_closed, #{}, #{}, fun(_Context, Client, _Tag, _Fd) ->
        ok = gen_tcp:shutdown(Client, write)
    end).

reset_by_the_peer(Config) ->
    ends(Config, reset, #{}, #{}, fun(_Context, Client, _Tag, _Fd) ->
        reactor_test:reset(Client)
    end).

%% It is watched as soon as its time begins, which may be over a moment later: both wait for the thread, which is held up.
idle(Config) ->
    serving(Config, "mailed.Mailed", #{idle_timeout_ms => 50}, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Number} = inet:getfd(Server),
        {ok, Fd} = py:dup_fd(Number),
        ok = gen_tcp:close(Server),
        Gate = reactor_test:hold(Context),
        ok = py_reactor_context:handoff(Context, Fd, #{tag => reactor_test:tag(), watcher => self()}),
        _ = spawn_link(fun() ->
            reactor_test:wait_queued(Context, 2),
            Gate ! open
        end),
        Monitor = py_reactor_context:monitor_connection(Context, Fd),
        hears(idle, Monitor, Fd),
        gen_tcp:close(Client)
    end).

stalled(Config) ->
    Script = #{data_received => [{<<>>, write_pending}], write_ready => [{binary:copy(<<"w">>, 65536), continue}]},
    ends(Config, stalled, #{write_stall_timeout_ms => 200}, Script, fun(_Context, Client, _Tag, _Fd) ->
        send(Client, <<"x">>)
    end).

exception(Config) ->
    ends(Config, exception, #{}, #{data_received => [{<<>>, {'raise', <<"no">>}}]}, fun(_Context, Client, _Tag, _Fd) ->
        send(Client, <<"x">>)
    end),
    ends(Config, exception, #{}, #{data_received => [{<<>>, nonsense}]}, fun(_Context, Client, _Tag, _Fd) ->
        send(Client, <<"x">>)
    end).

drained(Config) ->
    ends(Config, stopped, #{linger_ms => 0}, #{}, fun(Context, _Client, _Tag, _Fd) ->
        ok = py_reactor_context:drain(Context, 60000)
    end).

stopped(Config) ->
    ends(Config, stopped, #{}, #{}, fun(Context, _Client, _Tag, _Fd) ->
        ok = py_reactor_context:stop(Context, 100)
    end).

killed(Config) ->
    ends(Config, killed, #{}, #{}, fun(Context, _Client, _Tag, _Fd) ->
        unlink(Context),
        exit(Context, kill)
    end).

no_connection(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        ?assertEqual(noconnection, await_down(py_reactor_context:monitor_connection(Context, 0), 0)),
        ?assertEqual(noconnection, await_down(py_reactor_context:monitor_connection(99999999, 7), 7)),
        {Client, Tag, Fd} = served(Context, Config, #{}),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        ?assertEqual(noconnection, await_down(py_reactor_context:monitor_connection(Context, Fd), Fd))
    end).

%% What connection_lost sends comes before the news.
after_connection_lost(Config) ->
    serving(Config, "mailed.SaysGoodbye", fun(Context) ->
        true = register(monitors_suite, self()),
        {Client, _Tag, Fd} = served(Context, Config, #{}),
        Monitor = py_reactor_context:monitor_connection(Context, Fd),
        gen_tcp:close(Client),
        receive
            First -> ?assertEqual(<<"goodbye">>, First)
        after 30000 -> error(timeout)
        end,
        ?assertEqual(peer_closed, await_down(Monitor, Fd)),
        true = unregister(monitors_suite)
    end).

by_handle(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, #{}),
        #{connection := {Fd, Serial, Bits} = Handle} = mailed_test:connection(Context, Tag),
        Monitor = py_reactor_context:monitor_connection(Context, Handle),
        Other = py_reactor_context:monitor_connection(Context, {Fd, Serial, Bits + 1}),
        ?assertEqual(noconnection, await_down(Other, Fd)),
        gen_tcp:close(Client),
        ?assertEqual(peer_closed, await_down(Monitor, Fd))
    end).

many_watchers(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, #{}),
        Monitors = [py_reactor_context:monitor_connection(Context, Fd) || _ <- lists:seq(1, 100)],
        ?assertEqual(100, monitors(Context, Tag)),
        gen_tcp:close(Client),
        [?assertEqual(peer_closed, await_down(Monitor, Fd)) || Monitor <- Monitors],
        receive
            {py_connection_down, _, _, _} = Twice -> error(Twice)
        after 0 -> ok
        end
    end).

watchers_are_bounded(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, #{}),
        Monitors = [py_reactor_context:monitor_connection(Context, Fd) || _ <- lists:seq(1, 1024)],
        ?assertEqual(too_many_monitors, await_down(py_reactor_context:monitor_connection(Context, Fd), Fd)),
        ?assertEqual(1024, monitors(Context, Tag)),
        ok = py_reactor_context:demonitor_connection(hd(Monitors)),
        Last = py_reactor_context:monitor_connection(Context, Fd),
        gen_tcp:close(Client),
        [?assertEqual(peer_closed, await_down(Monitor, Fd)) || Monitor <- [Last | tl(Monitors)]]
    end).

demonitored(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, #{}),
        Monitor = py_reactor_context:monitor_connection(Context, Fd),
        ?assertEqual(1, monitors(Context, Tag)),
        ok = py_reactor_context:demonitor_connection(Monitor),
        wait_equal(0, fun() -> monitors(Context, Tag) end),
        Late = py_reactor_context:monitor_connection(Context, Fd),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        {LatePid, _} = Late,
        wait_equal(false, fun() -> is_process_alive(LatePid) end),
        ok = py_reactor_context:demonitor_connection(Late),
        receive
            {py_connection_down, _, _, _} = Unwanted -> error(Unwanted)
        after 0 -> ok
        end
    end).

%% Of a process that has ended no watch stays behind: its go-between has told the thread, and is gone.
watches_of_the_dead_are_forgotten(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag, Fd} = served(Context, Config, #{}),
        Parent = self(),
        {Watching, Down} = spawn_monitor(fun() ->
            Parent ! {monitor, py_reactor_context:monitor_connection(Context, Fd)}
        end),
        {Between, _} =
            receive
                {monitor, Monitor} -> Monitor
            end,
        receive
            {'DOWN', Down, process, Watching, normal} -> ok
        end,
        wait_equal(false, fun() -> is_process_alive(Between) end),
        wait_equal(0, fun() -> monitors(Context, Tag) end),
        gen_tcp:close(Client)
    end).

monitors(Context, Tag) ->
    maps:get(monitors, mailed_test:connection(Context, Tag)).

from_another_node(Config) ->
    case messages_SUITE:start_peer() of
        {ok, Peer, Node} ->
            ends(Config, peer_closed, #{}, #{}, fun(Context, Client, _Tag, Fd) ->
                Parent = self(),
                Watch = fun() ->
                    Monitor = py_reactor_context:monitor_connection(Context, Fd),
                    Parent ! watching,
                    receive
                        {py_connection_down, Monitor, Fd, Reason} -> Parent ! {far, Reason}
                    end
                end,
                _ = spawn(Node, erlang, apply, [Watch, []]),
                receive
                    watching -> ok
                end,
                gen_tcp:close(Client),
                receive
                    {far, Reason} -> ?assertEqual(peer_closed, Reason)
                after 30000 -> error(timeout)
                end
            end),
            peer:stop(Peer);
        {skip, _} = Skip ->
            Skip
    end.

the_node_goes_away(Config) ->
    case messages_SUITE:start_peer() of
        {ok, Peer, Node} ->
            Options = reactor_test:options(Config, #{}),
            {ok, Context} = erpc:call(Node, py_reactor, start_context, [1, reactor_test:mode(Config), Options]),
            ?assertEqual(noconnection, await_down(py_reactor_context:monitor_connection(Context, 0), 0)),
            peer:stop(Peer),
            ?assertEqual(unreachable, await_down(py_reactor_context:monitor_connection(Context, 0), 0));
        {skip, _} = Skip ->
            Skip
    end.
