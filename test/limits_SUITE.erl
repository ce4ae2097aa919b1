%% What bounds a connection in time, and a context that is run dry.
-module(limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/4, client/2, client/4, send/2, expect/2, expect_eof/1, wait_lost/2, wait_event/3]).

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].

groups() ->
    reactor_test:backend_groups([
        idle_is_closed_properly,
        busy_is_not_idle,
        stalled_is_cut,
        slow_is_not_stalled,
        stalled_delays_nobody,
        drain_answers_what_has_arrived,
        drain_takes_too_long,
        drain_of_nothing
    ]).

init_per_group(Group, Config) ->
    log_collector:install(),
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    log_collector:remove().

timed_out(Context) ->
    maps:get(timed_out, py_reactor_context:stats(Context)).

idle_is_closed_properly(Config) ->
    serving(Config, "recorder.Recording", #{idle_timeout_ms => 50}, fun(Context) ->
        {Client, Tag} = client(Context, Config),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual(1, timed_out(Context))
    end).

%% For twice the timeout. A neighbour that does nothing shows that the timeout works.
busy_is_not_idle(Config) ->
    busy_is_not_idle(Config, 5).

busy_is_not_idle(Config, Tries) ->
    TimeoutMs = 2000,
    {Pause, TimedOut} = serving(Config, "recorder.Recording", #{idle_timeout_ms => TimeoutMs}, fun(Context) ->
        {_Idle, _} = client(Context, Config),
        {Busy, _} = client(Context, Config),
        Now = erlang:monotonic_time(millisecond),
        Pause = echo_until(Now + 2 * TimeoutMs, Busy, fun() -> element(1, client(Context, Config)) end, Now, 0),
        {Pause, timed_out(Context)}
    end),
    %% Where the machine stood still the busy one was idle, too.
    case Pause < TimeoutMs div 2 of
        true -> ?assertEqual(1, TimedOut);
        false when Tries > 1 -> busy_is_not_idle(Config, Tries - 1)
    end.

%% Answers the longest time between two echoes. Drivers with faults reset connections now and then.
echo_until(Until, Client, Reconnect, Last, Longest) ->
    Echoed =
        case gen_tcp:send(Client, <<"x">>) of
            ok -> gen_tcp:recv(Client, 1, 30000);
            {error, _} = Error -> Error
        end,
    receive
    after 10 -> ok
    end,
    Now = erlang:monotonic_time(millisecond),
    Pause = max(Longest, Now - Last),
    case Echoed of
        _ when Now >= Until -> Pause;
        {ok, <<"x">>} -> echo_until(Until, Client, Reconnect, Now, Pause);
        {error, _} -> echo_until(Until, Reconnect(), Reconnect, Last, Longest)
    end.

stalled_is_cut(Config) ->
    serving(Config, "streams.Download", #{write_stall_timeout_ms => 100}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, [{recbuf, 8192}, {sndbuf, 8192}]),
        send(Client, <<"50000000 ">>),
        wait_lost(Context, Tag),
        ?assertEqual(1, timed_out(Context))
    end).

%% It takes more than twice the timeout, in which no send ends, but the peer takes a little all the time.
slow_is_not_stalled(Config) ->
    TimeoutMs = 3000,
    Options = #{write_stall_timeout_ms => TimeoutMs, write_high_bytes => 100000000},
    serving(Config, "streams.Download", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, [{recbuf, 8192}, {sndbuf, 8192}]),
        send(Client, <<"20000000 ">>),
        Until = erlang:monotonic_time(millisecond) + 2 * TimeoutMs + 500,
        Left = read_slowly(Client, 20000000, Until),
        ?assert(Left > 0, "the peer was too fast to show anything"),
        ?assertEqual(Left, byte_size(reactor_test:receive_all(Client))),
        wait_lost(Context, Tag),
        ?assertEqual(0, timed_out(Context))
    end).

read_slowly(Client, Left, Until) ->
    {ok, Part} = gen_tcp:recv(Client, 1000, 30000),
    receive
    after 2 -> ok
    end,
    case erlang:monotonic_time(millisecond) < Until of
        true -> read_slowly(Client, Left - byte_size(Part), Until);
        false -> Left - byte_size(Part)
    end.

%% A slow reader costs its own marks and nobody's time.
stalled_delays_nobody(Config) ->
    serving(Config, "streams.Download", #{}, fun(Context) ->
        {Slow, _} = client(Context, Config, #{}, [{recbuf, 8192}, {sndbuf, 8192}]),
        send(Slow, <<"50000000 ">>),
        [
            begin
                {Client, _} = client(Context, Config),
                send(Client, <<"1000 ">>),
                ?assertEqual(1000, byte_size(reactor_test:receive_all(Client)))
            end
         || _ <- lists:seq(1, 100)
        ],
        #{bytes_out := Out, connections := Open} = py_reactor_context:stats(Context),
        ?assert(Open >= 1),
        ?assert(Out < 20000000, Out),
        gen_tcp:close(Slow)
    end).

drain_answers_what_has_arrived(Config) ->
    serving(Config, "waiting.Later", #{}, fun(Context) ->
        {Busy, BusyTag} = client(Context, Config),
        {Idle, IdleTag} = client(Context, Config),
        send(Busy, <<"question">>),
        wait_event(Context, BusyTag, <<"data_received">>),
        Self = self(),
        Drain = spawn_link(fun() -> Self ! {self(), py_reactor_context:drain(Context, 30000)} end),
        expect_eof(Idle),
        gen_tcp:close(Idle),
        wait_lost(Context, IdleTag),
        {_, Late} = reactor_test:pair(Config),
        ?assertEqual({error, draining}, py_reactor_context:handoff(Context, Late, #{})),
        {ok, true} = py:call(Context, recorder, signal, [BusyTag]),
        expect(Busy, <<"question">>),
        expect_eof(Busy),
        gen_tcp:close(Busy),
        receive {Drain, Result} -> ?assertEqual(ok, Result) end
    end).

drain_takes_too_long(Config) ->
    serving(Config, "waiting.Later", #{}, fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"question">>),
        wait_event(Context, Tag, <<"data_received">>),
        ?assertEqual({error, {connections, 1}}, py_reactor_context:drain(Context, 20)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect(Client, <<"question">>),
        expect_eof(Client)
    end).

drain_of_nothing(Config) ->
    serving(Config, "recorder.Recording", #{}, fun(Context) ->
        ?assertEqual(ok, py_reactor_context:drain(Context, 0)),
        ?assertEqual(ok, py_reactor_context:drain(Context, 1000))
    end).
