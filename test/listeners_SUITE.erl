%% Listeners: who gets the connections, and what a listener outlives.
-module(listeners_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [send/2, expect/2, expect_eof/1, new_id/0, options/2, wait_until/1]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        serves,
        contexts_share_evenly,
        who_is_busy_takes_nobody,
        who_dies_while_it_is_busy_keeps_nobody_waiting,
        who_drains_is_passed_over,
        who_is_full_is_passed_over,
        clients_wait_while_all_drain,
        no_descriptors_are_left,
        a_socket_for_each_context,
        a_storm_while_contexts_come_and_go,
        survives_the_restart_of_a_context,
        comes_back_on_its_port,
        port_in_use,
        name_in_use,
        stop_leaves_connections_alone,
        clients_that_vanish,
        many_clients_at_once,
        ipv6,
        client_info_of_the_peer,
        scopes_of_link_local_peers
    ]).

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Id = new_id(),
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    {ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options),
    [{id, Id} | Config].

end_per_testcase(_Case, Config) ->
    _ = py_reactor:stop_listener(?MODULE),
    _ = py_reactor_context:stop(id(Config), 100).

id(Config) ->
    proplists:get_value(id, Config).

listen(Config) ->
    {ok, Pid} = py_reactor:start_listener(?MODULE, #{contexts => [id(Config)]}),
    {Pid, port()}.

port() ->
    #{?MODULE := #{port := Port}} = py_reactor:listeners(),
    Port.

connect(Port) ->
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    Client.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

serves(Config) ->
    {Pid, Port} = listen(Config),
    ?assert(is_process_alive(Pid)),
    Id = id(Config),
    ?assertMatch(#{?MODULE := #{ip := {127, 0, 0, 1}, port := Port, contexts := [Id]}}, py_reactor:listeners()),
    [echoes(connect(Port)) || _ <- lists:seq(1, 10)].

%% Whoever has waited longest takes the next one: those that are not busy have as many as the others, but for what comes in the
%% moment in which a context is not back yet.
contexts_share_evenly(Config) ->
    Ids = [new_id() || _ <- lists:seq(1, 3)],
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    [{ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options) || Id <- Ids],
    {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => Ids}),
    Accepted = fun() -> [maps:get(accepted, py_reactor_context:stats(Id)) || Id <- Ids] end,
    wait_until(fun() -> echoes(connect(port())), lists:min(Accepted()) > 0 end),
    %% Who answers a second time has ended the turn of the first, and waits again unless it is kept from that.
    Threads = [os_resources:thread(Id) || Id <- Ids],
    Back = fun() ->
        [{ok, 1} = py:eval(Id, "1") || Id <- Ids, _ <- [1, 2]],
        wait_until(fun() -> lists:all(fun os_resources:sleeps/1, Threads) end)
    end,
    Before = Accepted(),
    [begin Back(), echoes(connect(port())) end || _ <- lists:seq(1, 60)],
    Each = [After - B || {After, B} <- lists:zip(Accepted(), Before)],
    ?assertEqual(60, lists:sum(Each)),
    ?assert(lists:min(Each) >= 15, Each),
    [ok = py_reactor_context:stop(Id, 0) || Id <- Ids].

%% Not even one for whom it was woken before: each is served at once, by the other.
who_is_busy_takes_nobody(Config) ->
    two_contexts(Config, #{}, fun(Busy, Open) ->
        Gate = hold(Busy),
        Clients = [begin Client = connect(port()), echoes(Client), Client end || _ <- lists:seq(1, 20)],
        ?assertMatch(#{accepted := 20}, py_reactor_context:stats(Open)),
        ?assertMatch(#{accepted := 0}, py_reactor_context:stats(Busy)),
        Gate ! open,
        %% And takes its share again.
        wait_until(fun() -> echoes(connect(port())), maps:get(accepted, py_reactor_context:stats(Busy)) > 2 end),
        [echoes(Client) || Client <- Clients]
    end).

who_dies_while_it_is_busy_keeps_nobody_waiting(Config) ->
    two_contexts(Config, #{}, fun(Busy, Open) ->
        Gate = hold(Busy),
        Waiting = [connect(port()) || _ <- lists:seq(1, 5)],
        exit(py:context(Busy), kill),
        [echoes(Client) || Client <- Waiting],
        ?assertMatch(#{accepted := 5}, py_reactor_context:stats(Open)),
        Gate ! open
    end).

%% Has a context run a function until the process that is answered is sent `open', or the context is dead: were it told first that
%% nobody answers any more, it would take clients along.
hold(Id) ->
    Test = self(),
    Name = list_to_atom("gate" ++ integer_to_list(Id)),
    ok = py:register_function(Name, fun() -> Test ! {held, self()}, receive open -> ok end end),
    Code =
        "import erlang\n"
        "try:\n"
        "    erlang.call('" ++ atom_to_list(Name) ++ "', timeout=None)\n"
        "except Exception:\n"
        "    while True: pass\n",
    _ = spawn(fun() -> py:exec(Id, Code) end),
    receive {held, Gate} -> Gate after 30000 -> error(not_held) end.

%% Another program connects, for that takes descriptors as well.
no_descriptors_are_left(Config) ->
    {_, Port} = listen(Config),
    First = connect(Port),
    echoes(First),
    gen_tcp:close(First),
    reactor_test:wait_connections(id(Config), 0),
    Script = filename:join(reactor_test:python_path(), "late_client.py"),
    {ok, Python} = py:eval(id(Config), "__import__('sys').executable"),
    Client = open_port({spawn_executable, Python}, [{args, [Script, integer_to_list(Port)]}, {line, 100}, binary]),
    said(Client, <<"ready">>),
    Self = self(),
    Listens = fun
        (#{meta := #{py_listener := _}, msg := {_, [_, Trouble | _]}} = Event, _) -> Self ! {trouble, Trouble}, Event;
        (Event, _) -> Event
    end,
    ok = logger:add_primary_filter(?MODULE, {Listens, none}),
    ok = py:exec(id(Config), "import exhausted\ntaken = exhausted.take_all()"),
    try
        true = port_command(Client, <<"connect\n">>),
        said(Client, <<"connected">>),
        receive {trouble, Trouble} -> ?assertEqual(emfile, Trouble) after 30000 -> error(no_log_line) end,
        %% It is tried again and again, and said once.
        #{turns := Turns} = py_reactor_context:stats(id(Config)),
        wait_until(fun() -> maps:get(turns, py_reactor_context:stats(id(Config))) >= Turns + 4 end),
        receive {trouble, _} -> error(said_twice) after 0 -> ok end
    after
        ok = py:exec(id(Config), "taken.give_back()"),
        ok = logger:remove_primary_filter(?MODULE)
    end,
    said(Client, <<"echoed">>).

said(Port, Line) ->
    receive {Port, {data, {eol, Line}}} -> ok after 60000 -> error({not_said, Line}) end.

%% SO_REUSEPORT: the kernel chooses, and who is held up keeps those whom it has chosen for it.
a_socket_for_each_context(Config) ->
    Ids = [One, Two] = [new_id(), new_id()],
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    [{ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options) || Id <- Ids],
    {ok, Pid} = py_reactor:start_listener(?MODULE, #{contexts => Ids, reuseport => true}),
    Port = port(),
    Accepted = fun(Id) -> maps:get(accepted, py_reactor_context:stats(Id)) end,
    wait_until(fun() -> echoes(connect(Port)), lists:min([Accepted(Id) || Id <- Ids]) > 0 end),
    ok = py_reactor_context:stop(One, 0),
    Gone = fun() -> py_reactor_context:stats(One) =:= {error, {no_context, One}} end,
    wait_until(Gone),
    Before = Accepted(Two),
    %% The socket of the one that is gone is closed a moment later; whom the kernel gives to that before is reset.
    wait_until(fun() -> length(listening(Port)) =:= 1 end),
    [echoes(connect(Port)) || _ <- lists:seq(1, 20)],
    ?assert(Accepted(Two) >= Before + 20),
    {ok, _} = py_reactor:start_context(One, reactor_test:mode(Config), Options),
    wait_until(fun() -> echoes(connect(Port)), Accepted(One) > 0 end),
    %% Nobody: one socket stays, and keeps the port.
    [ok = py_reactor_context:stop(Id, 0) || Id <- Ids],
    wait_until(fun() -> length(listening(Port)) =:= 1 end),
    Waiting = connect(Port),
    {ok, _} = py_reactor:start_context(Two, reactor_test:mode(Config), Options),
    echoes(Waiting),
    ?assert(is_process_alive(Pid)),
    [ok = py_reactor_context:stop(Two, 0)].

%% Clients come and go while contexts are killed, drained and started: nothing is left, and whoever is accepted is served.
a_storm_while_contexts_come_and_go(Config) ->
    Ids = [new_id() || _ <- lists:seq(1, 2)],
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    Start = fun(Id) -> {ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options) end,
    Round = fun() ->
        lists:foreach(Start, Ids),
        {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => [id(Config) | Ids]}),
        Port = port(),
        Test = self(),
        Clients = [spawn_link(fun() -> storm(Port, 100, 0), Test ! {self(), done} end) || _ <- lists:seq(1, 8)],
        [
            begin
                exit(py:context(One), kill),
                ok = py_reactor_context:stop(Two, 10),
                Start(Two),
                wait_until(fun() -> is_pid(catch py:context(One)) end)
            end
         || _ <- lists:seq(1, 2), {One, Two} <- [{hd(Ids), lists:last(Ids)}, {lists:last(Ids), hd(Ids)}]
        ],
        [receive {Client, done} -> ok end || Client <- Clients],
        Last = connect(Port),
        echoes(Last),
        gen_tcp:close(Last),
        ok = py_reactor:stop_listener(?MODULE),
        [ok = py_reactor_context:stop(Id, 0) || Id <- Ids],
        reactor_test:wait_connections(id(Config), 0)
    end,
    Round(),
    Before = os_resources:snapshot(),
    Round(),
    Round(),
    os_resources:wait_back_to(Before).

%% Those of a context that ends are lost. Many are not.
storm(_Port, 0, Served) ->
    ?assert(Served > 50, Served);
storm(Port, Left, Served) ->
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}], 30000),
    _ = gen_tcp:send(Client, <<"x">>),
    case gen_tcp:recv(Client, 1, 30000) of
        {ok, <<"x">>} -> gen_tcp:close(Client), storm(Port, Left - 1, Served + 1);
        {error, Ended} when Ended =:= closed; Ended =:= econnreset -> storm(Port, Left - 1, Served)
    end.

%% The sockets that listen on a port of 127.0.0.1.
listening(Port) ->
    {ok, Table} = file:read_file("/proc/net/tcp"),
    Address = iolist_to_binary(io_lib:format(" 0100007F:~4.16.0B 00000000:0000 0A ", [Port])),
    binary:matches(Table, Address).

who_drains_is_passed_over(Config) ->
    two_contexts(Config, #{}, fun(Draining, Open) ->
        ok = py_reactor_context:drain(Draining, 30000),
        Clients = [connect(port()) || _ <- lists:seq(1, 10)],
        [echoes(Client) || Client <- Clients],
        ?assertMatch(#{connections := 10, refused := 0}, py_reactor_context:stats(Open)),
        ?assertMatch(#{refused := 0}, py_reactor_context:stats(Draining))
    end).

%% Only when all are full is a client turned away: closed, counted and logged once.
who_is_full_is_passed_over(Config) ->
    two_contexts(Config, #{max_connections => 2}, fun(One, Two) ->
        {Direct, Server} = reactor_test:pair(Config),
        ok = py_reactor_context:handoff(One, Server, #{}),
        echoes(Direct),
        %% One of the two is full before the others.
        [echoes(connect(port())) || _ <- lists:seq(1, 3)],
        ?assertMatch(#{connections := 2, refused := 0}, py_reactor_context:stats(One)),
        ?assertMatch(#{connections := 2, refused := 0}, py_reactor_context:stats(Two)),
        ok = log_collector:install(),
        try
            expect_eof(connect(port())),
            Refused = fun(Context) -> maps:get(refused, py_reactor_context:stats(Context)) end,
            ?assertEqual(1, Refused(One) + Refused(Two)),
            [Full] = [Context || Context <- [One, Two], Refused(Context) =:= 1],
            ?assertMatch({warning, _, _}, log_collector:await(Full, ["a connection was refused", "2 are open"]))
        after
            log_collector:remove()
        end
    end).

clients_wait_while_all_drain(Config) ->
    {_, Port} = listen(Config),
    ok = py_reactor_context:drain(id(Config), 30000),
    Self = self(),
    Listens = fun
        (#{meta := #{py_listener := _}, level := Level} = Event, _) -> Self ! {logged, Level}, Event;
        (Event, _) -> Event
    end,
    ok = logger:add_primary_filter(?MODULE, {Listens, none}),
    Waiting = connect(Port),
    %% Somebody wants it so.
    receive
        {logged, Level} -> ?assertEqual(notice, Level)
    after 30000 -> error(no_log_line)
    end,
    ok = logger:remove_primary_filter(?MODULE),
    ok = py_reactor_context:stop(id(Config), 0),
    Options = options(Config, #{setup_code => reactor_test:factory("streams.Echo")}),
    {ok, _} = py_reactor:start_context(id(Config), reactor_test:mode(Config), Options),
    echoes(Waiting).

two_contexts(Config, Extra, Fun) ->
    Ids = [One, Two] = [new_id(), new_id()],
    Options = options(Config, Extra#{setup_code => reactor_test:factory("streams.Echo")}),
    [{ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options) || Id <- Ids],
    {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => Ids}),
    Fun(One, Two),
    [ok = py_reactor_context:stop(Id, 0) || Id <- Ids].

survives_the_restart_of_a_context(Config) ->
    {Pid, Port} = listen(Config),
    Client = connect(Port),
    echoes(Client),
    Context = py:context(id(Config)),
    exit(Context, kill),
    expect_eof(Client),
    %% Whoever connects in between waits, and is served.
    Next = connect(Port),
    echoes(Next),
    ?assertNotEqual(Context, py:context(id(Config))),
    ?assert(is_process_alive(Pid)),
    ?assertEqual(Port, port()).

comes_back_on_its_port(Config) ->
    {Pid, Port} = listen(Config),
    Client = connect(Port),
    echoes(Client),
    exit(Pid, kill),
    wait_until(fun() ->
        case py_reactor:listeners() of
            #{?MODULE := #{port := Port}} -> true;
            _ -> false
        end
    end),
    echoes(connect(Port)),
    echoes(Client).

port_in_use(Config) ->
    {ok, Taken} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Taken),
    Before = os_resources:snapshot(),
    ?assertEqual(
        {error, {listen, eaddrinuse, #{ip => {127, 0, 0, 1}, port => Port}}},
        py_reactor:start_listener(?MODULE, #{port => Port, contexts => [id(Config)]})
    ),
    ?assertMatch(
        {error, {listen, eaddrnotavail, #{ip := {192, 0, 2, 1}}}},
        py_reactor:start_listener(?MODULE, #{ip => {192, 0, 2, 1}, contexts => [id(Config)]})
    ),
    os_resources:wait_back_to(Before),
    ?assertNot(maps:is_key(?MODULE, py_reactor:listeners())),
    gen_tcp:close(Taken),
    {ok, _} = py_reactor:start_listener(?MODULE, #{port => Port, contexts => [id(Config)]}),
    echoes(connect(Port)).

name_in_use(Config) ->
    {Pid, Port} = listen(Config),
    ?assertEqual({error, {already_started, Pid}}, py_reactor:start_listener(?MODULE, #{contexts => [id(Config)]})),
    echoes(connect(Port)).

stop_leaves_connections_alone(Config) ->
    {Pid, Port} = listen(Config),
    Client = connect(Port),
    echoes(Client),
    ok = py_reactor:stop_listener(?MODULE),
    ?assertNot(is_process_alive(Pid)),
    ?assertEqual({error, {no_listener, ?MODULE}}, py_reactor:stop_listener(?MODULE)),
    ok = os_resources:refuses(Port),
    echoes(Client).

%% Reset before they were accepted, or before they were served.
clients_that_vanish(Config) ->
    {_, Port} = listen(Config),
    Before = os_resources:snapshot(),
    [reactor_test:reset(connect(Port)) || _ <- lists:seq(1, 500)],
    echoes(connect(Port)),
    reactor_test:wait_connections(id(Config), 1),
    #{descriptors := Descriptors} = Before,
    %% The last client has two ends.
    wait_until(fun() -> map_get(descriptors, os_resources:snapshot()) =< Descriptors + 2 end).

many_clients_at_once(Config) ->
    {_, Port} = listen(Config),
    Test = self(),
    Pids = [
        spawn_link(fun() ->
            Clients = [connect(Port) || _ <- lists:seq(1, 25)],
            [echoes(Client) || Client <- Clients],
            Test ! {self(), done}
        end)
     || _ <- lists:seq(1, 20)
    ],
    [receive {Pid, done} -> ok end || Pid <- Pids],
    reactor_test:wait_connections(id(Config), 0),
    ?assertMatch(#{accepted := 500, closed := 500, exceptions := 0}, py_reactor_context:stats(id(Config))).

ipv6(Config) ->
    Loopback = {0, 0, 0, 0, 0, 0, 0, 1},
    case gen_tcp:listen(0, [inet6, {ip, Loopback}]) of
        {ok, Probe} ->
            gen_tcp:close(Probe),
            {ok, _} = py_reactor:start_listener(?MODULE, #{ip => Loopback, contexts => [id(Config)]}),
            {ok, Client} = gen_tcp:connect(Loopback, port(), [inet6, binary, {active, false}]),
            echoes(Client);
        {error, _} ->
            {skip, "no IPv6 here"}
    end.

client_info_of_the_peer(Config) ->
    ok = py:exec(id(Config), ["import listening\n", reactor_test:factory("listening.TellsInfo")]),
    {_, Port} = listen(Config),
    Client = connect(Port),
    {ok, {_, Own}} = inet:sockname(Client),
    expect(Client, ["addr='127.0.0.1' port=", integer_to_list(Own), " type='tcp'"]).

%% In a network namespace, where the loopback interface has a link-local address.
scopes_of_link_local_peers(Config) ->
    Script = "ip link set lo up && ip addr add fe80::1/64 dev lo nodad && exec erl \"$@\"",
    case os:cmd("unshare -n sh -c 'ip link set lo up && ip addr add fe80::1/64 dev lo nodad && echo -n may' 2>&1") of
        "may" ->
            {ok, Peer, _} = peer:start(#{
                connection => standard_io,
                exec => {os:find_executable("unshare"), ["-n", "sh", "-c", Script, "erl"]},
                args => ["-pa" | code:get_path()],
                wait_boot => 60000
            }),
            ok = peer:call(Peer, ?MODULE, scopes, [Config, id(Config)], 60000),
            peer:stop(Peer);
        Why ->
            {skip, "no network namespace here: " ++ Why}
    end.

scopes(Config, Id) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Options = options(Config, #{setup_code => reactor_test:factory("scopes.Scoped")}),
    {ok, _} = py_reactor:start_context(Id, reactor_test:mode(Config), Options),
    Ip = {16#fe80, 0, 0, 0, 0, 0, 0, 1},
    At = fun(Port) -> #{family => inet6, addr => Ip, port => Port, scope_id => 1, flowinfo => 0} end,
    %% Accepted by a listener of ours.
    {ok, _} = py_reactor:start_listener(?MODULE, #{ip => {0, 0, 0, 0, 0, 0, 0, 0}, contexts => [Id]}),
    ?assertEqual({ok, <<"fe80::1 1">>}, asked(stream, At(port()))),
    %% Handed over.
    {ok, Listening} = socket:open(inet6, stream),
    ok = socket:bind(Listening, At(0)),
    ok = socket:listen(Listening),
    {ok, #{port := Port}} = socket:sockname(Listening),
    [
        begin
            _ = spawn_link(fun() ->
                {ok, Accepted} = socket:accept(Listening),
                ok = py_reactor_context:handoff(Id, Accepted, Info)
            end),
            ?assertEqual({Info, {ok, Answer}}, {Info, asked(stream, At(Port))})
        end
     || {Info, Answer} <- [
            {#{addr => Ip}, <<"fe80::1 1">>},
            {#{addr => Ip, scope_id => 7}, <<"fe80::1 7">>},
            {#{addr => "fe80::2"}, <<"fe80::2 None">>},
            {#{addr => "::1"}, <<"::1 None">>}
        ]
    ],
    %% Of datagrams: the sender as it is, the interface by name and by number, and one that is not there.
    {ok, Served} = socket:open(inet6, dgram),
    ok = socket:bind(Served, At(0)),
    {ok, To} = socket:sockname(Served),
    ok = py_reactor_context:handoff(Id, Served, #{}),
    [
        ?assertEqual({Zone, {ok, Answer}}, {Zone, asked(dgram, To, Zone)})
     || {Zone, Answer} <- [
            {<<"-">>, <<"-">>},
            {<<"lo">>, <<"lo">>},
            {<<"1">>, <<"1">>},
            {<<"nowhere">>, <<"'fe80::1%nowhere': there is no interface 'nowhere'">>}
        ]
    ],
    ok.

asked(Type, To) ->
    asked(Type, To, <<"x">>).

asked(Type, To, Data) ->
    {ok, Socket} = socket:open(inet6, Type),
    ok = socket:bind(Socket, To#{port := 0}),
    ok = socket:connect(Socket, To),
    ok = socket:send(Socket, Data),
    Answer = socket:recv(Socket, 0, 30000),
    ok = socket:close(Socket),
    Answer.
