%% How contexts start and end, and what becomes of their connections, threads and descriptors.
-module(lifecycle_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/2, client/3, client/4, send/2, expect/2, expect_eof/1, new_id/0, options/2, wait_until/1]).

-define(SMALL, [{sndbuf, 8192}, {recbuf, 8192}]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        stop_delivers_what_was_written,
        stop_delivers_write_buffers,
        application_stop_delivers_write_buffers,
        stop_cuts_after_the_time_to_drain,
        stop_while_connections_arrive,
        drain_and_stop_answer_although_python_does_not_return,
        killed_contexts_leave_no_descriptor,
        kill_ends_connections_of_which_copies_are_open,
        death_of_the_owner,
        supervised_contexts_come_back,
        stopped_contexts_stay_away,
        application_stop_and_start,
        two_contexts_two_factories,
        contexts_on_demand,
        start_contexts,
        stays_on_a_cpu,
        many_contexts_at_once
    ], [
        stop_tells_every_protocol,
        kill_closes_everything,
        kill_during_a_callback_reaches_no_stranger,
        requests_hear_of_the_death
    ]).

%% Its thread does; those of the VM do not, nor other contexts.
stays_on_a_cpu(Config) ->
    Affinity = "sorted(__import__('os').sched_getaffinity(0))",
    {ok, Free} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{})),
    {ok, Cpus} = py:eval(Free, Affinity),
    Cpu = lists:last(Cpus),
    {ok, Context} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{cpu => Cpu})),
    ?assertEqual({ok, [Cpu]}, py:eval(Context, Affinity)),
    ?assertEqual({ok, Cpus}, py:eval(Free, Affinity)),
    {error, {cpu, Why}} =
        py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{cpu => 1023})),
    ?assertMatch(<<"this process may not use CPU 1023", _/binary>>, Why),
    [ok = py_reactor_context:stop(Each) || Each <- [Free, Context]].

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    process_flag(trap_exit, true),
    Config.

end_per_testcase(_Case, _Config) ->
    ok.

start(Config, Factory, Options) ->
    All = options(Config, Options#{setup_code => reactor_test:factory(Factory)}),
    {ok, Context} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), All),
    Context.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

stop_delivers_what_was_written(Config) ->
    Context = start(Config, "streams.Download", #{write_high_bytes => 10000000, drain_ms => 60000}),
    Clients = [client(Context, Config, #{}, ?SMALL) || _ <- lists:seq(1, 5)],
    [send(Client, <<"4000000 ">>) || {Client, _} <- Clients],
    [reactor_test:wait_equal({ok, [4000000]}, fun() -> py:call(Context, streams, accepted, [Tag]) end) || {_, Tag} <- Clients],
    delivers_while_it_stops(Context, Config, [Client || {Client, _} <- Clients], fun py_reactor_context:stop/1).

%% What was put into write_buffer before the stop, in write mode or by a thread that has signalled.
stop_delivers_write_buffers(Config) ->
    Context = start(Config, "waiting.Answers", #{drain_ms => 60000}),
    delivers_while_it_stops(Context, Config, answered(Context, Config), fun py_reactor_context:stop/1).

application_stop_delivers_write_buffers(Config) ->
    Options = options(Config, #{drain_ms => 60000, setup_code => reactor_test:factory("waiting.Answers")}),
    {ok, Context} = py_reactor:start_context(new_id(), reactor_test:mode(Config), Options),
    delivers_while_it_stops(Context, Config, answered(Context, Config), fun(_) -> application:stop(py_reactor) end).

answered(Context, Config) ->
    [
        begin
            {Client, Tag} = client(Context, Config, #{how => How}, ?SMALL),
            send(Client, <<"go">>),
            reactor_test:wait_event(Context, Tag, <<"answered">>),
            Client
        end
     || How <- [native, python, thread]
    ].

%% Four million bytes to each client, which reads only when the context is stopping.
delivers_while_it_stops(Context, Config, Clients, Stop) ->
    Readers = [spawn_monitor(fun() -> read_when_told(Client) end) || Client <- Clients],
    [ok = gen_tcp:controlling_process(Client, Pid) || {Client, {Pid, _}} <- lists:zip(Clients, Readers)],
    Stopper = spawn_link(fun() -> ok = Stop(Context) end),
    %% It is stopping when it takes no more.
    wait_until(fun() ->
        {Other, Server} = reactor_test:pair(Config),
        Refused = py_reactor_context:handoff(Context, Server, #{}) =/= ok,
        _ = [gen_tcp:close(Socket) || Socket <- [Other, Server]],
        Refused
    end),
    [Pid ! read || {Pid, _} <- Readers],
    [
        receive
            {'DOWN', Monitor, process, Pid, Size} -> ?assertEqual({read, 4000000}, Size)
        end
     || {Pid, Monitor} <- Readers
    ],
    receive
        {'EXIT', Stopper, Reason} -> ?assertEqual(normal, Reason)
    end.

read_when_told(Client) ->
    receive
        read -> exit({read, byte_size(reactor_test:receive_all(Client))})
    end.

stop_tells_every_protocol(Config) ->
    Context = start(Config, "recorder.Recording", #{}),
    Clients = [client(Context, Config) || _ <- lists:seq(1, 100)],
    [echoes(Client) || {Client, _} <- Clients],
    Before = os_resources:snapshot(),
    Threads = os_resources:threads_of_contexts(),
    Stopper = spawn_link(fun() -> ok = py_reactor_context:stop(Context) end),
    [begin expect_eof(Client), gen_tcp:close(Client) end || {Client, _} <- Clients],
    receive
        {'EXIT', Stopper, normal} -> ok
    end,
    #{descriptors := Descriptors} = os_resources:snapshot(),
    ?assert(os_resources:threads_of_contexts() < Threads),
    %% Both ends of each connection.
    ?assert(Descriptors =< map_get(descriptors, Before) - 200),
    reactor_test:with_context(Config, #{}, fun(Other) ->
        [reactor_test:wait_lost(Other, Tag) || {_, Tag} <- Clients]
    end).

stop_cuts_after_the_time_to_drain(Config) ->
    Context = start(Config, "streams.Download", #{write_high_bytes => 100000000}),
    {Client, Tag} = client(Context, Config, #{}, ?SMALL),
    send(Client, <<"40000000 ">>),
    reactor_test:wait_equal({ok, [40000000]}, fun() -> py:call(Context, streams, accepted, [Tag]) end),
    ok = py_reactor_context:stop(Context, 20),
    ?assertNot(is_process_alive(Context)),
    %% Something is missing, and nothing more comes.
    ok = inet:setopts(Client, [{show_econnreset, false}]),
    ?assert(count_until_end(Client, 0) < 40000000).

%% What is answered is true all the same.
drain_and_stop_answer_although_python_does_not_return(Config) ->
    Context = start(Config, "streams.Echo", #{}),
    {Client, _} = client(Context, Config),
    echoes(Client),
    Gate = held(Context),
    ?assertEqual({error, {connections, 1}}, py_reactor_context:drain(Context, 50)),
    {_, Server} = reactor_test:pair(Config),
    ?assertEqual({error, draining}, py_reactor_context:handoff(Context, Server, #{})),
    Gate ! open,
    expect_eof(Client),
    gen_tcp:close(Client),
    ok = py_reactor_context:drain(Context, 30000),
    ok = py_reactor_context:stop(Context),
    Empty = start(Config, "streams.Echo", #{}),
    HeldToo = held(Empty),
    ok = py_reactor_context:drain(Empty, 50),
    ok = py_reactor_context:stop(Empty, 0),
    ?assertNot(is_process_alive(Empty)),
    HeldToo ! open.

%% A context whose Python code returns when the process that is answered is told to open.
held(Context) ->
    Test = self(),
    ok = py:register_function(?MODULE, fun() ->
        Test ! {at_the_gate, self()},
        receive
            open -> none
        end
    end),
    spawn(fun() -> py:exec(Context, "import erlang; erlang.call('lifecycle_SUITE')") end),
    receive
        {at_the_gate, Gate} -> Gate
    end.

count_until_end(Client, Count) ->
    case gen_tcp:recv(Client, 0, 30000) of
        {ok, Part} -> count_until_end(Client, Count + byte_size(Part));
        {error, _} -> Count
    end.

%% Whoever comes too late is either served, or refused and keeps the socket; nobody is forgotten.
stop_while_connections_arrive(Config) ->
    [
        begin
            Context = start(Config, "streams.Echo", #{}),
            Stopper = spawn_link(fun() -> ok = py_reactor_context:stop(Context, 1000) end),
            Before = [hand_one_over(Context, Config) || _ <- lists:seq(1, 50)],
            receive
                {'EXIT', Stopper, normal} -> ok
            end,
            [begin expect_eof(Client), gen_tcp:close(Client) end || Client <- Before]
        end
     || _ <- lists:seq(1, 10)
    ].

hand_one_over(Context, Config) ->
    {Client, Server} = reactor_test:pair(Config),
    case py_reactor_context:handoff(Context, Server, #{}) of
        ok -> ok;
        {error, stopped} -> ok = gen_tcp:close(Server);
        {error, {no_context, _}} -> ok = gen_tcp:close(Server)
    end,
    Client.

kill_closes_everything(Config) ->
    reactor_test:with_context(Config, #{}, fun(_Warm) -> ok end),
    Before = os_resources:snapshot(),
    Context = start(Config, "recorder.Recording", #{}),
    Clients = [client(Context, Config) || _ <- lists:seq(1, 100)],
    [echoes(Client) || {Client, _} <- Clients],
    exit(Context, kill),
    [begin expect_eof(Client), gen_tcp:close(Client) end || {Client, _} <- Clients],
    os_resources:wait_back_to(Before),
    ?assertEqual({error, stopped}, py_reactor_context:handoff(Context, 0, #{})),
    reactor_test:with_context(Config, #{}, fun(Other) ->
        [reactor_test:wait_lost(Other, Tag) || {_, Tag} <- Clients]
    end).

%% Whoever still has the handle of a context keeps none of its descriptors.
killed_contexts_leave_no_descriptor(Config) ->
    Before = os_resources:snapshot(),
    Handles = [
        begin
            Context = start(Config, "recorder.Recording", #{}),
            State = sys:get_state(Context),
            exit(Context, kill),
            State
        end
     || _ <- lists:seq(1, 10)
    ],
    os_resources:wait_back_to(Before),
    ?assertEqual(10, length(Handles)).

kill_ends_connections_of_which_copies_are_open(Config) ->
    Context = start(Config, "streams.Echo", #{}),
    {Client, Server} = reactor_test:pair(Config),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(Context, Duplicate, #{}),
    echoes(Client),
    exit(Context, kill),
    expect_eof(Client),
    ?assertEqual({ok, Fd}, inet:getfd(Server)).

%% The callback goes on for as long as it likes, and then writes: the number of its descriptor may be a stranger's by now.
kill_during_a_callback_reaches_no_stranger(Config) ->
    Context = start(Config, "stuck.Stuck", #{}),
    Tag = reactor_test:tag(),
    {Client, _} = client(Context, Config, #{tag => Tag}),
    send(Client, <<"x">>),
    serving(Config, "streams.Echo", fun(Other) ->
        wait_until(fun() -> py:call(Other, stuck, is_inside, [Tag]) =:= {ok, true} end),
        exit(Context, kill),
        Strangers = [element(1, client(Other, Config)) || _ <- lists:seq(1, 50)],
        [echoes(Stranger) || Stranger <- Strangers],
        {ok, none} = py:call(Other, recorder, release, [Tag]),
        wait_until(fun() -> lists:member(<<"connection_lost">>, reactor_test:methods(Other, Tag)) end),
        [echoes(Stranger) || Stranger <- Strangers],
        %% Once its callback has returned, the end of its own connection comes.
        reactor_test:wait_until(fun() -> element(1, gen_tcp:recv(Client, 0, 30000)) =:= error end)
    end).

death_of_the_owner(Config) ->
    Test = self(),
    Owner = spawn(fun() ->
        Context = start(Config, "streams.Echo", #{}),
        process_flag(trap_exit, false),
        Test ! {context, Context},
        receive
            die -> exit(died)
        end
    end),
    Context =
        receive
            {context, Pid} -> Pid
        end,
    {Client, _} = client(Context, Config),
    echoes(Client),
    Owner ! die,
    expect_eof(Client),
    gen_tcp:close(Client),
    wait_until(fun() -> not is_process_alive(Context) end).

requests_hear_of_the_death(Config) ->
    Context = start(Config, "stuck.Stuck", #{}),
    Tag = reactor_test:tag(),
    {Client, _} = client(Context, Config, #{tag => Tag}),
    send(Client, <<"x">>),
    reactor_test:with_context(Config, #{}, fun(Other) ->
        wait_until(fun() -> py:call(Other, stuck, is_inside, [Tag]) =:= {ok, true} end),
        Callers = [spawn_monitor(fun() -> exit(py:eval(Context, "1")) end) || _ <- lists:seq(1, 10)],
        reactor_test:wait_queued(Context, length(Callers)),
        exit(Context, kill),
        [
            receive
                {'DOWN', Monitor, process, Pid, Result} -> ?assertMatch({error, {context_down, killed}}, Result)
            end
         || {Pid, Monitor} <- Callers
        ],
        {ok, none} = py:call(Other, recorder, release, [Tag])
    end).

supervised_contexts_come_back(Config) ->
    Id = new_id(),
    {ok, First} = py_reactor:start_context(Id, reactor_test:mode(Config), options(Config, #{setup_code => reactor_test:factory("streams.Echo")})),
    {Client, _} = client(First, Config),
    echoes(Client),
    exit(First, kill),
    expect_eof(Client),
    wait_until(fun() -> is_pid_of(Id, First) end),
    ?assertNotEqual(First, py:context(Id)),
    {Again, _} = client(Id, Config),
    echoes(Again),
    gen_tcp:close(Again),
    ok = py_reactor_context:stop(Id).

is_pid_of(Id, Old) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} when Pid =/= Old -> true;
        _ -> false
    end.

stopped_contexts_stay_away(Config) ->
    Id = new_id(),
    {ok, Pid} = py_reactor:start_context(Id, reactor_test:mode(Config), options(Config, #{})),
    ok = py_reactor_context:stop(Id),
    ?assertNot(is_process_alive(Pid)),
    ?assertNot(lists:member(Id, [C || {C, _, _, _} <- supervisor:which_children(py_context_sup)])),
    ?assertEqual({error, {no_context, Id}}, py:eval(Id, "1")),
    {ok, Again} = py_reactor:start_context(Id, reactor_test:mode(Config), options(Config, #{})),
    ?assertNotEqual(Pid, Again),
    ok = py_reactor_context:stop(Again).

application_stop_and_start(Config) ->
    [stop_and_start(Config) || _ <- lists:seq(1, 2)],
    Before = os_resources:snapshot(),
    %% Python 3.12 loses memory with each interpreter that ends.
    Many = case reactor_test:mode(Config) of subinterp -> 20; worker -> 50 end,
    [stop_and_start(Config) || _ <- lists:seq(1, reactor_test:times(10, Many))],
    os_resources:wait_back_to(Before).

stop_and_start(Config) ->
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    {ok, Supervised} = py_reactor:start_context(new_id(), reactor_test:mode(Config), Options),
    {ok, Linked} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), Options),
    {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => [Supervised]}),
    #{?MODULE := #{port := Port}} = py_reactor:listeners(),
    {ok, Listened} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    Clients = [Listened | [element(1, client(C, Config)) || C <- [Supervised, Linked], _ <- lists:seq(1, 10)]],
    [echoes(Client) || Client <- Clients],
    Closer = spawn_link(fun() -> [begin {ok, C} = receive {take, S} -> {ok, S} end, expect_eof(C), gen_tcp:close(C) end || _ <- Clients] end),
    [begin ok = gen_tcp:controlling_process(C, Closer), Closer ! {take, C} end || C <- Clients],
    ok = application:stop(py_reactor),
    receive
        {'EXIT', Closer, normal} -> ok
    end,
    wait_until(fun() -> not is_process_alive(Linked) end),
    ok = os_resources:refuses(Port),
    ?assertEqual([], py:contexts()),
    ?assertEqual(#{}, py_reactor:listeners()),
    ok = application:start(py_reactor).

%% One interpreter, one package: and still each context has its own factory, and its own globals.
two_contexts_two_factories(Config) ->
    Echo = start(Config, "streams.Echo", #{}),
    Greeter = start(Config, "factories.Greeter", #{}),
    Third = start(Config, "streams.EchoByHand", #{}),
    [ok = py:exec(C, ["mine = ", Name]) || {C, Name} <- [{Echo, "'echo'"}, {Greeter, "'greeter'"}]],
    [
        begin
            {E, _} = client(Echo, Config),
            {G, _} = client(Greeter, Config),
            {T, _} = client(Third, Config),
            expect(G, <<"hello">>),
            echoes(E),
            echoes(T),
            [gen_tcp:close(C) || C <- [E, G, T]]
        end
     || _ <- lists:seq(1, 10)
    ],
    ?assertEqual({ok, <<"echo">>}, py:eval(Echo, "mine")),
    ?assertEqual({ok, <<"greeter">>}, py:eval(Greeter, "mine")),
    ?assertMatch({error, {python_error, #{type := <<"NameError">>}}}, py:eval(Third, "mine")),
    [ok = py_reactor_context:stop(C, 100) || C <- [Echo, Greeter, Third]].

contexts_on_demand(_Config) ->
    Id = new_id(),
    Test = self(),
    Pids = [spawn_link(fun() -> Test ! {self(), py:context(Id)} end) || _ <- lists:seq(1, 20)],
    [Context] = lists:usort([receive {Pid, C} -> C end || Pid <- Pids]),
    ?assertEqual(Context, py:context(Id)),
    ?assert(lists:member(Context, py:contexts())),
    ?assertEqual({ok, 42}, py:eval(Context, "6 * 7")),
    ok = py_reactor_context:stop(Id),
    ?assertNot(lists:member(Context, py:contexts())),
    %% And again, another one.
    ?assertNotEqual(Context, py:context(Id)),
    ok = py_reactor_context:stop(Id).

start_contexts(Config) ->
    _ = [py_reactor_context:stop(C) || C <- py:contexts()],
    Settings = options(Config, #{count => 3, setup_code => <<"started = True">>}),
    {ok, [First, Second, Third] = All} = py:start_contexts(Settings),
    ?assertEqual(All, py:contexts()),
    ?assertEqual([First, Second, Third], [py:context(N) || N <- [1, 2, 3]]),
    [?assertEqual({ok, true}, py:eval(N, "started")) || N <- [1, 2, 3]],
    ?assertEqual({ok, All}, py:start_contexts(3)),
    ?assertEqual({error, {already_started, First}}, py:start_contexts(Settings)),
    ok = py_reactor_context:stop(1),
    %% The second runs already; the first, which this call started, is taken back.
    ?assertEqual({error, {already_started, Second}}, py:start_contexts(Settings)),
    ?assertEqual([Second, Third], py:contexts()),
    [ok = py_reactor_context:stop(C) || C <- [2, 3]].

many_contexts_at_once(Config) ->
    Before = os_resources:snapshot(),
    Contexts = [start(Config, "streams.Echo", #{}) || _ <- lists:seq(1, 20)],
    ?assertEqual(20, length(lists:usort(Contexts))),
    Clients = [element(1, client(C, Config)) || C <- Contexts],
    [echoes(Client) || Client <- Clients],
    [gen_tcp:close(Client) || Client <- Clients],
    [ok = py_reactor_context:stop(C, 100) || C <- Contexts],
    os_resources:wait_back_to(Before).
