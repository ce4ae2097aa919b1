%% What bounds a connection in time, and a context that is run dry.
-module(limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [undisturbed/1, serving/4, client/2, client/4, send/2, expect/2, expect_eof/1, wait_lost/2, wait_event/3]).

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].

groups() ->
    reactor_test:backend_groups([
        idle_is_closed_properly,
        busy_is_not_idle,
        stalled_is_cut,
        stalled_delays_nobody,
        small_writes_cost_their_mark,
        a_flood_delays_nobody,
        drain_answers_what_has_arrived,
        drain_takes_too_long,
        drain_of_nothing
    ] ++ undisturbed([
        who_sends_much_is_received_from_repeatedly, who_takes_long_is_received_from_once, ten_thousand_idle
    ]), [], [slow_is_not_stalled | undisturbed([an_idle_context_makes_no_turns])]).

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

%% It outlives an idle one that came after it.
busy_is_not_idle(Config) ->
    TimeoutMs = 1000,
    serving(Config, "recorder.Recording", #{idle_timeout_ms => TimeoutMs}, fun(Context) ->
        outlives_an_idle_one(Context, Config, TimeoutMs, 20)
    end).

%% Once more when it was reset (src/driver/faults.rs), or when this machine stood still for so long that it was idle indeed.
outlives_an_idle_one(Context, Config, TimeoutMs, Attempts) when Attempts > 0 ->
    Before = timed_out(Context),
    Start = now_ms(),
    {Busy, _} = client(Context, Config),
    {Idle, _} = client(Context, Config),
    End = exchange_until_closed(Idle, Busy, Start),
    gen_tcp:close(Busy),
    case {End, timed_out(Context) - Before} of
        {outlived, TimedOut} -> ?assertEqual(1, TimedOut);
        {{closed, _SilentMs}, 1} ->
            ?assert(os:getenv("PY_REACTOR_FAULTS") =/= false, "closed, and not for being idle"),
            outlives_an_idle_one(Context, Config, TimeoutMs, Attempts - 1);
        {{closed, SilentMs}, 2} when SilentMs >= TimeoutMs ->
            outlives_an_idle_one(Context, Config, TimeoutMs, Attempts - 1)
    end.

%% `outlived' if Busy still answers after the end of Idle; else how long at most nothing moved before the end of Busy.
%% Idle has ended in either case.
exchange_until_closed(Idle, Busy, Previous) ->
    Start = now_ms(),
    IsOver = gen_tcp:recv(Idle, 0, 5) =:= {error, closed},
    case exchange(Busy) of
        {ok, <<"x">>} when IsOver -> outlived;
        {ok, <<"x">>} -> exchange_until_closed(Idle, Busy, Start);
        {error, closed} ->
            SilentMs = now_ms() - Previous,
            IsOver orelse expect_eof(Idle),
            {closed, SilentMs}
    end.

exchange(Client) ->
    case gen_tcp:send(Client, <<"x">>) of
        ok -> gen_tcp:recv(Client, 1, 30000);
        Error -> Error
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).

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
    serving(Config, "streams.Download", Options, fun(Context) -> slow_is_served(Context, Config, TimeoutMs, 20) end).

%% Once more when this machine stood still for so long that the peer took nothing indeed.
slow_is_served(Context, Config, TimeoutMs, Attempts) when Attempts > 0 ->
    Before = timed_out(Context),
    {Client, Tag} = client(Context, Config, #{}, [{recbuf, 8192}, {sndbuf, 8192}]),
    send(Client, <<"20000000 ">>),
    Now = now_ms(),
    case read_slowly(Client, 20000000, Now + 2 * TimeoutMs + 500, [Now]) of
        {left, Left} ->
            ?assert(Left > 0, "the peer was too fast to show anything"),
            ?assertEqual(Left, byte_size(reactor_test:receive_all(Client))),
            wait_lost(Context, Tag),
            ?assertEqual(Before, timed_out(Context));
        {cut, StoodStillMs} when StoodStillMs >= TimeoutMs ->
            wait_lost(Context, Tag),
            slow_is_served(Context, Config, TimeoutMs, Attempts - 1)
    end.

%% What is left when it is time; or that it was cut, and how long the last reads have taken: so many that the kernel has told
%% the other side of them.
read_slowly(Client, Left, Until, Times) ->
    case gen_tcp:recv(Client, 1000, 30000) of
        {ok, Part} ->
            receive
            after 2 -> ok
            end,
            case now_ms() of
                Now when Now < Until -> read_slowly(Client, Left - byte_size(Part), Until, lists:sublist([Now | Times], 64));
                _ -> {left, Left - byte_size(Part)}
            end;
        {error, closed} ->
            {cut, now_ms() - lists:last(Times)}
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
        %% What waits for it costs its mark, and what the kernel took.
        [#{unsent := Unsent, sent := Sent}] = [C || #{state := State} = C <- py_reactor_context:connections(Context), State =/= closing],
        ?assert(Unsent =< 256 * 1024, Unsent),
        ?assert(Sent < 20000000, Sent),
        gen_tcp:close(Slow)
    end).

%% Four send as fast as they can to a protocol that takes a millisecond for each piece. Between a ping and its answer each has
%% had a turn or a few, and not all that had arrived before.
a_flood_delays_nobody(Config) ->
    serving(Config, "streams.PingOrSlow", #{}, fun(Context) ->
        {Pinging, _} = client(Context, Config),
        ping(Pinging),
        Flooding = [element(1, client(Context, Config)) || _ <- lists:seq(1, 4)],
        Data = binary:copy(<<"x">>, 256 * 1024),
        Senders = [spawn(fun() -> receive go -> flood(Client, Data) end end) || Client <- Flooding],
        [begin ok = gen_tcp:controlling_process(Client, Pid), Pid ! go end || {Client, Pid} <- lists:zip(Flooding, Senders)],
        Messages = fun() -> maps:get(messages, py_reactor_context:stats(Context)) end,
        Start = Messages(),
        reactor_test:wait_until(fun() -> Messages() > Start + 200 end),
        %% By then the thread has come so far, whoever reads the answer when.
        Waited = [begin Before = Messages(), counting_ping(Pinging) - Before end || _ <- lists:seq(1, 15)],
        [exit(Pid, kill) || Pid <- Senders],
        ?assert(lists:nth(8, lists:sort(Waited)) < 40, Waited)
    end).

%% More than once while what it answers fits, before others are looked at: a turn before the kernel is asked, and one after
%% that, have up to 64 KiB each.
who_sends_much_is_received_from_repeatedly(Config) ->
    flooding(Config, #{}, <<"answer">>, fun(Value) ->
        reactor_test:wait_until("much in one turn", fun() -> Value(most_bytes) >= 3 * 64 * 1024 end)
    end).

%% Also where all that may be received at a time is one buffer, and so one callback. What was received before that was left in the
%% kernel is delivered two at a time, in the first of these turns.
who_takes_long_is_received_from_once(Config) ->
    flooding(Config, #{buffer_bytes => 64 * 1024}, <<"slowly">>, fun(Value) ->
        reactor_test:wait_until("some turns", fun() -> length(Value(calls_of_turns)) >= 150 end),
        Calls = lists:nthtail(100, Value(calls_of_turns)),
        ?assert(lists:nth(length(Calls) div 2, lists:sort(Calls)) =< 2, Calls)
    end).

flooding(Config, Options, How, Fun) ->
    serving(Config, "streams.AnswersInTurns", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, [{sndbuf, 1 bsl 20}, {recbuf, 1 bsl 20}]),
        send(Client, How),
        expect(Client, How),
        Data = binary:copy(<<"x">>, 1 bsl 20),
        Sender = spawn(fun() -> flood(Client, Data) end),
        Reader = spawn(fun() -> read_on(Client) end),
        Fun(fun(Name) -> element(2, py:call(Context, writes, value, [Tag, Name])) end),
        [exit(Pid, kill) || Pid <- [Sender, Reader]]
    end).

read_on(Client) ->
    case gen_tcp:recv(Client, 0) of
        {ok, _} -> read_on(Client);
        {error, _} -> ok
    end.

ping(Client) ->
    send(Client, <<"ping">>),
    expect(Client, <<"ping">>).

counting_ping(Client) ->
    send(Client, <<"count">>),
    {ok, Count} = reactor_test:receive_bytes(Client, 8),
    binary_to_integer(Count).

flood(Client, Data) ->
    case gen_tcp:send(Client, Data) of
        ok -> flood(Client, Data);
        {error, _} -> ok
    end.

%% B3, in memory: readers that read nothing, for each of which its mark was written byte by byte.
small_writes_cost_their_mark(Config) ->
    serving(Config, "writes.ByteByByte", #{}, fun(Context) ->
        Writing = fun() ->
            {Client, Tag} = client(Context, Config, #{}, [{recbuf, 8192}, {sndbuf, 8192}]),
            send(Client, <<"go">>),
            wait_event(Context, Tag, <<"data_received">>),
            Client
        end,
        _First = Writing(),
        Before = resident_bytes(),
        Clients = [Writing() || _ <- lists:seq(1, 20)],
        Each = (resident_bytes() - Before) div 20,
        ?assert(Each < 2 * 1024 * 1024 orelse os:getenv("ASAN_OPTIONS") =/= false, Each),
        Unsent = [U || #{unsent := U} <- py_reactor_context:connections(Context)],
        ?assert(lists:min(Unsent) > 100000, Unsent),
        [reactor_test:reset(Client) || Client <- Clients]
    end).

%% Each of its connections has moved, and is looked at once when it is quiet; then nothing happens while another context, which
%% runs a command each 100 ms, turns on.
an_idle_context_makes_no_turns(Config) ->
    serving(Config, "streams.Echo", #{}, fun(Idle) ->
        Clients = [Client || {Client, _} <- [client(Idle, Config) || _ <- lists:seq(1, 20)]],
        [echoes(Client) || Client <- Clients],
        serving(Config, "streams.Echo", #{}, fun(Control) ->
            reactor_test:wait_until("no turn of the idle one", fun() -> stands_still(Idle, Control) end)
        end),
        [echoes(Client) || Client <- Clients],
        reactor_test:wait_connections(Idle, 20)
    end).

%% Whether Idle makes no turn while Control runs 20 commands, and makes some.
stands_still(Idle, Control) ->
    Before = {turns(Idle), turns(Control)},
    [
        begin
            {ok, Nth} = py:eval(Control, integer_to_list(Nth)),
            timer:sleep(100)
        end
     || Nth <- lists:seq(1, 20)
    ],
    {IdleBefore, ControlBefore} = Before,
    %% The turn of the last one ends after its answer.
    reactor_test:wait_until(fun() -> turns(Control) >= ControlBefore + 20 end),
    turns(Idle) =:= IdleBefore.

turns(Context) ->
    maps:get(turns, py_reactor_context:stats(Context)).

%% As many as the limit of open files allows. They cost little, are not in the way of another one, and are all there.
ten_thousand_idle(Config) ->
    Count = min(10000, file_limit() - 2000),
    serving(Config, "streams.Echo", #{max_connections => 20000}, fun(Context) ->
        {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => [Context], backlog => 4096}),
        #{?MODULE := #{port := Port}} = py_reactor:listeners(),
        {Busy, _} = client(Context, Config),
        echoes(Busy),
        Before = resident_bytes(),
        Script = filename:join(reactor_test:python_path(), "idle_clients.py"),
        {ok, Python} = py:eval(Context, "__import__('sys').executable"),
        Clients = open_port({spawn_executable, Python}, [
            {args, [Script, integer_to_list(Port), integer_to_list(Count)]}, {line, 100}, binary
        ]),
        said(Clients, <<"ready">>),
        reactor_test:wait_connections(Context, Count + 1),
        Each = (resident_bytes() - Before) div Count,
        %% 0.9 KiB of ours; the rest is the table's room to grow, and the VM's. AddressSanitizer takes much more.
        ?assert(Each < 4096 orelse os:getenv("ASAN_OPTIONS") =/= false, Each),
        [echoes(Busy) || _ <- lists:seq(1, 100)],
        true = port_command(Clients, <<"\n">>),
        said(Clients, <<"done">>),
        ok = py_reactor:stop_listener(?MODULE),
        reactor_test:wait_connections(Context, 1),
        ct:comment("~b connections, ~b bytes each", [Count, Each])
    end).

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

said(Port, Line) ->
    receive
        {Port, {data, {eol, Line}}} -> ok
    after 120000 -> error({not_said, Line})
    end.

%% Of the VM, which has raised its limit as far as it may.
file_limit() ->
    {ok, Limits} = file:read_file("/proc/self/limits"),
    {match, [Soft]} = re:run(Limits, "Max open files +(\\d+)", [{capture, [1], list}]),
    list_to_integer(Soft).

resident_bytes() ->
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [KiB]} = re:run(Status, "VmRSS:\\s+(\\d+)", [{capture, [1], list}]),
    list_to_integer(KiB) * 1024.

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
