%% B5: a panic in Rust restarts its context alone, with a reason that says so, and leaves nothing behind.
%%
%% Where the native half calls Python, protocols/panics.py makes it panic. In the drivers, src/driver/faults.rs does: those cases
%% run where faults are injected (`make test-faults').
-module(panics_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, client/3, send/2, expect/2, expect_eof/1, new_id/0, options/2, wait_until/1]).

-define(CONNECTIONS, 20).
-define(PANICKED(Text), {reactor_thread, {panic, <<Text>>}}).
-define(PROVOKED, ?PANICKED("provoked by a test")).

-include("reactor_suite.hrl").

groups() ->
    InDrivers = [while_waiting, while_sending],
    reactor_test:backend_groups(
        [
            in_a_callback,
            in_connection_lost,
            in_setup_code,
            in_a_job,
            in_a_cast,
            what_waits_behind_it_ends_too,
            nothing_is_left
        ] ++ [Case || Case <- InDrivers, os:getenv("PY_REACTOR_FAULTS") =/= false]
    ).

init_per_testcase(_Case, Config) ->
    _ = application:stop(py_reactor),
    {ok, _} = application:ensure_all_started(py_reactor),
    process_flag(trap_exit, true),
    ok = logger:add_primary_filter(?MODULE, {fun ?MODULE:filter/2, self()}),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = logger:remove_primary_filter(?MODULE),
    ok = application:stop(py_reactor).

in_a_callback(Config) ->
    contained(Config, "panics.OnDemand", ?PROVOKED, fun(_Doomed, Client) -> send(Client, <<"panic">>) end).

%% A panic after the panic: every connection's end raises one more.
in_connection_lost(Config) ->
    contained(Config, "panics.AtTheEnd", ?PROVOKED, fun(_Doomed, Client) -> send(Client, <<"panic">>) end).

in_a_job(Config) ->
    contained(Config, "recorder.Recording", ?PROVOKED, fun(Doomed, _Client) ->
        ?assertEqual({error, {context_down, ?PROVOKED}}, py:call(Doomed, panics, panic, []))
    end).

in_a_cast(Config) ->
    contained(Config, "recorder.Recording", ?PROVOKED, fun(Doomed, _Client) -> ok = py:cast(Doomed, panics, panic, []) end).

%% With the thread detached from Python.
while_waiting(Config) ->
    Panic = <<"faults: panic while waiting">>,
    contained(Config, "recorder.Recording", ?PANICKED("faults: panic while waiting"), fun(_Doomed, Client) -> send(Client, Panic) end).

%% The echo comes to be sent, with the table of connections in use.
while_sending(Config) ->
    Panic = <<"faults: panic while sending">>,
    contained(Config, "recorder.Recording", ?PANICKED("faults: panic while sending"), fun(_Doomed, Client) -> send(Client, Panic) end).

%% Two contexts, connections on both. One panics and comes back; the other's connections notice nothing.
contained(Config, Factory, Reason, Provoke) ->
    {_, Doomed} = start(Config, Factory),
    {OtherId, Other} = start(Config, "recorder.Recording"),
    Before = os_resources:snapshot(),
    Clients = [{First, _} | _] = connections(Doomed, Config),
    Others = connections(Other, Config),
    Busy = [spawn_monitor(fun() -> echo_until_told(Client) end) || {Client, _} <- lists:sublist(Others, 4)],
    [ok = gen_tcp:controlling_process(Client, Pid) || {{Client, _}, {Pid, _}} <- lists:zip(lists:sublist(Others, 4), Busy)],
    [Pid ! go || {Pid, _} <- Busy],
    {ok, DoomedId} = py_reactor_table:id(Doomed),
    _ = Provoke(Doomed, First),
    [begin expect_eof(Client), gen_tcp:close(Client) end || {Client, _} <- Clients],
    %% It is said what happened, and the context is started again.
    ?assertEqual({DoomedId, Reason}, reported()),
    wait_until(fun() -> is_another(DoomedId, Doomed) end),
    {Again, _} = client(DoomedId, Config),
    echoes(Again),
    gen_tcp:close(Again),
    %% The others were served all the while.
    [Pid ! stop || {Pid, _} <- Busy],
    [
        receive
            {'DOWN', Monitor, process, Pid, Result} -> ?assertMatch({echoed, N} when N > 0, Result)
        end
     || {Pid, Monitor} <- Busy
    ],
    [begin echoes(Client), gen_tcp:close(Client) end || {Client, _} <- lists:nthtail(4, Others)],
    ?assertEqual({ok, Other}, py_reactor_table:pid(OtherId)),
    %% Each protocol was told once (B9).
    [reactor_test:wait_lost(Other, Tag) || {_, Tag} <- Clients],
    os_resources:wait_back_to(Before).

in_setup_code(Config) ->
    _ = start(Config, "recorder.Recording"),
    Before = os_resources:snapshot(),
    Options = options(Config, #{setup_code => <<"import panics\npanics.panic()\n">>}),
    [
        ?assertEqual({error, {panic, <<"provoked by a test">>}}, py_reactor_context:start_link(new_id(), worker, Options))
     || _ <- lists:seq(1, 5)
    ],
    os_resources:wait_back_to(Before).

%% Commands that the thread had taken along with the one that panics: a request is answered, and a connection that was
%% promised ends for its peer, although Erlang still holds a copy of its descriptor.
what_waits_behind_it_ends_too(Config) ->
    Context = linked(Config, "stuck.Stuck"),
    {_, Other} = start(Config, "recorder.Recording"),
    Tag = reactor_test:tag(),
    {Client, _} = client(Context, Config, #{tag => Tag}),
    send(Client, <<"x">>),
    wait_until(fun() -> py:call(Other, stuck, is_inside, [Tag]) =:= {ok, true} end),
    ok = py:cast(Context, panics, panic, []),
    {Promised, Server} = reactor_test:pair(Config),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(Context, Duplicate, #{}),
    {Caller, Monitor} = spawn_monitor(fun() -> exit(py:eval(Context, "1")) end),
    %% The cast, the connection and the request.
    reactor_test:wait_queued(Context, 3),
    {ok, none} = py:call(Other, recorder, release, [Tag]),
    expect_eof(Promised),
    ?assertEqual({ok, Fd}, inet:getfd(Server)),
    receive
        {'DOWN', Monitor, process, Caller, Result} -> ?assertMatch({error, _}, Result)
    end.

%% Thread, ring, memory, descriptors: all of it goes, each time.
nothing_is_left(Config) ->
    {_, Other} = start(Config, "recorder.Recording"),
    panic_once(Config),
    reactor_test:with_context(Config, #{}, fun(_) -> ok end),
    Before = os_resources:snapshot(),
    Tags = lists:append([panic_once(Config) || _ <- lists:seq(1, 10)]),
    [reactor_test:wait_lost(Other, Tag) || Tag <- Tags],
    reactor_test:with_context(Config, #{}, fun(_) -> ok end),
    os_resources:wait_back_to(Before).

panic_once(Config) ->
    Context = linked(Config, "panics.AtTheEnd"),
    Clients = [{First, _} | _] = connections(Context, Config),
    send(First, <<"panic">>),
    [begin expect_eof(Client), gen_tcp:close(Client) end || {Client, _} <- Clients],
    receive
        {'EXIT', Context, Reason} -> ?assertEqual(?PROVOKED, Reason)
    end,
    [Tag || {_, Tag} <- Clients].

%% A supervised context, in which Rust has seen an exception.
start(Config, Factory) ->
    Id = new_id(),
    {ok, Context} = py_reactor:start_context(Id, worker, options(Config, #{setup_code => factory(Factory)})),
    {error, _} = py:eval(Context, "1/0"),
    {Id, Context}.

linked(Config, Factory) ->
    {ok, Context} = py_reactor_context:start_link(new_id(), worker, options(Config, #{setup_code => factory(Factory)})),
    Context.

factory(Name) ->
    reactor_test:factory(Name).

connections(Context, Config) ->
    Clients = [client(Context, Config) || _ <- lists:seq(1, ?CONNECTIONS)],
    [echoes(Client) || {Client, _} <- Clients],
    Clients.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

echo_until_told(Client) ->
    receive
        go -> echo_until_told(Client, 0)
    end.

echo_until_told(Client, Count) ->
    receive
        stop -> exit({echoed, Count})
    after 0 ->
        echoes(Client),
        echo_until_told(Client, Count + 1)
    end.

is_another(Id, Old) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} -> Pid =/= Old;
        error -> false
    end.

%% What the keeper of a context reports goes to the test. Reports of the crashed process go nowhere: whoever keeps one
%% keeps the native context that is in it, and with it two descriptors.
filter(#{msg := {"context ~tp failed" ++ _, [Id, Reason]}}, Test) ->
    Test ! {reported, Id, Reason},
    stop;
filter(#{level := error, meta := #{domain := [otp | _]}}, _Test) ->
    stop;
filter(Event, _Test) ->
    Event.

reported() ->
    receive
        {reported, Id, Reason} -> {Id, Reason}
    after 30000 -> error(no_report)
    end.
