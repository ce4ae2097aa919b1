%% Who owns a descriptor: every way to hand one over, and what each way leaves behind.
-module(handoff_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, send/2, expect/2, expect_eof/1]).

-define(CYCLES, 2000).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        every_way_is_served,
        the_client_sees_the_end_although_a_copy_is_open,
        a_port_of_another_process_is_left_alone,
        bytes_that_came_before_the_handoff_are_delivered,
        output_that_erlang_sent_before_comes_first,
        duplicates_are_closed_on_exec,
        a_socket_that_is_closed_meanwhile,
        closed_in_between,
        handed_over_twice,
        duplicates_are_closed_in_every_answer,
        close_fd_closes_what_dup_fd_made,
        a_newcomer_with_the_number_of_one_that_lingers,
        a_protocol_that_closes_its_descriptor,
        method_2_coroutine,
        method_2_blocking_wrapper,
        method_3_connects_back
    ] ++ reactor_test:long([every_way_leaves_nothing_behind])).

info() ->
    #{addr => inet:ntoa({127, 0, 0, 1}), port => 1, type => tcp}.

exchange(Client) ->
    Data = crypto:strong_rand_bytes(1 + rand:uniform(20000)),
    send(Client, Data),
    expect(Client, Data).

every_way_is_served(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        [
            begin
                ct:log("~p", [Way]),
                Client = sources:serve(Way, Context, info()),
                exchange(Client),
                exchange(Client),
                ok = gen_tcp:shutdown(Client, write),
                expect_eof(Client),
                reactor_test:wait_connections(Context, 0)
            end
         || Way <- sources:ways()
        ],
        py_reactor:stop_listener({sources, Context})
    end).

%% Half of the connections say something first; the others end at once.
every_way_leaves_nothing_behind(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        [
            begin
                cycles(Way, Context, 20),
                reactor_test:wait_connections(Context, 0),
                Before = os_resources:snapshot(),
                cycles(Way, Context, ?CYCLES),
                reactor_test:wait_connections(Context, 0),
                ct:log("~p: ~p, now ~p", [Way, Before, os_resources:snapshot()]),
                os_resources:wait_back_to(Before)
            end
         || Way <- sources:ways()
        ],
        #{accepted := Accepted, closed := Accepted, exceptions := 0} = py_reactor_context:stats(Context),
        ?assertEqual(length(sources:ways()) * (20 + ?CYCLES), Accepted),
        py_reactor:stop_listener({sources, Context})
    end).

cycles(Way, Context, Count) ->
    [
        begin
            Client = sources:serve(Way, Context, info()),
            case N rem 2 of
                0 ->
                    send(Client, <<"hello">>),
                    expect(Client, <<"hello">>);
                1 ->
                    ok
            end,
            gen_tcp:close(Client)
        end
     || N <- lists:seq(1, Count)
    ].

%% Erlang holds the socket all the time, and still the client sees the end when Python ends the connection.
the_client_sees_the_end_although_a_copy_is_open(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        Script = #{data_received => [{<<"bye">>, close}]},
        ok = py_reactor_context:handoff(Context, Duplicate, #{script => Script}),
        send(Client, <<"x">>),
        expect(Client, <<"bye">>),
        expect_eof(Client),
        ?assertNotEqual(undefined, erlang:port_info(Server)),
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        %% Our closing did not close the other's.
        ?assertEqual({ok, Fd}, inet:getfd(Server))
    end).

a_port_of_another_process_is_left_alone(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        Test = self(),
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        Owner = spawn_link(fun() ->
            receive
                give_up -> Test ! {given_up, gen_tcp:close(Server)}
            end
        end),
        ok = gen_tcp:controlling_process(Server, Owner),
        ok = py_reactor_context:handoff(Context, Fd, info()),
        exchange(Client),
        ?assertEqual({connected, Owner}, erlang:port_info(Server, connected)),
        Owner ! give_up,
        receive
            {given_up, ok} -> ok
        end,
        exchange(Client)
    end).

bytes_that_came_before_the_handoff_are_delivered(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        send(Client, <<"early">>),
        ok = py_reactor_context:handoff(Context, Server, info()),
        expect(Client, <<"early">>),
        %% So are those that came before the end of the input.
        {Short, ShortServer} = reactor_test:pair(Config),
        send(Short, <<"all of it">>),
        ok = gen_tcp:shutdown(Short, write),
        ok = py_reactor_context:handoff(Context, ShortServer, info()),
        expect(Short, <<"all of it">>),
        expect_eof(Short)
    end).

output_that_erlang_sent_before_comes_first(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        ok = gen_tcp:send(Server, <<"from Erlang ">>),
        ok = py_reactor_context:handoff(Context, Server, info()),
        send(Client, <<"from Python">>),
        expect(Client, <<"from Erlang from Python">>),
        %% What the driver still holds cannot be moved.
        {Full, FullServer} = reactor_test:pair(Config, [{sndbuf, 4096}, {recbuf, 4096}, {high_watermark, 10000000}]),
        ok = gen_tcp:send(FullServer, binary:copy(<<"x">>, 5000000)),
        ?assertMatch({error, {output_pending, Bytes, _}} when Bytes > 0, py_reactor_context:handoff(Context, FullServer, info())),
        ?assertNotEqual(undefined, erlang:port_info(FullServer)),
        gen_tcp:close(Full)
    end).

duplicates_are_closed_on_exec(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        ?assertEqual({ok, false}, py:call(Context, os, get_inheritable, [Duplicate])),
        ok = py_reactor_context:handoff(Context, Server, #{tag => <<"exec">>}),
        exchange(Client),
        {ok, Served} = py:call(Context, handlers, fd_of, [<<"exec">>]),
        ?assertEqual({ok, false}, py:call(Context, os, get_inheritable, [Served])),
        ok = py_nif:close_fd(Duplicate)
    end).

%% Whatever the order: the connection that was meant is served, or none.
a_socket_that_is_closed_meanwhile(Config) ->
    serving(Config, "peers.Known", fun(Context) ->
        Before = os_resources:snapshot(),
        [closed_meanwhile(Way, Context) || Way <- [port, fd, inet_backend, socket], _ <- lists:seq(1, 300)],
        reactor_test:wait_connections(Context, 0),
        ?assertEqual({ok, []}, py:eval(Context, "__import__('peers').strangers")),
        os_resources:wait_back_to(Before)
    end).

closed_meanwhile(Way, Context) ->
    {Client, Server, Close} = server(Way),
    {ok, Port} = inet:port(Client),
    {Source, Begun} =
        case Way of
            %% Looked up among the caller's sockets: the number is meant for that one from then on, and for anybody's before.
            fd -> {element(2, {ok, _} = inet:getfd(Server)), fun() -> wait_begun(Server) end};
            _ -> {Server, fun() -> ok end}
        end,
    Test = self(),
    %% Two at least wait for its number.
    Grabber = spawn_link(fun() ->
        receive
            go -> ok
        end,
        Pairs = [reactor_test:pair([]) || _ <- [1, 2]],
        Test ! {self(), grabbed},
        receive
            stop -> [[gen_tcp:close(One), gen_tcp:close(Two)] || {One, Two} <- Pairs]
        end
    end),
    Closer = spawn_link(fun() ->
        receive
            go -> Begun()
        end,
        Close(),
        Test ! {self(), closed}
    end),
    [Pid ! go || Pid <- [Closer, Grabber]],
    Result = py_reactor_context:handoff(Context, Source, #{type => tcp, port => Port}),
    Closer ! over,
    [
        receive
            {Pid, _} -> ok
        end
     || Pid <- [Closer, Grabber]
    ],
    case {Way, Result} of
        {_, ok} -> ok;
        {fd, {error, {bad_fd, _}}} -> ok;
        {_, {error, {bad_socket, _, _}}} -> ok
    end,
    gen_tcp:close(Client),
    Grabber ! stop.

%% Somebody hands that one over just now, or has.
wait_begun(Socket) ->
    receive
        over -> ok
    after 0 ->
        case ets:member(py_reactor_table, {handoff, Socket}) of
            true -> ok;
            false -> erlang:yield(), wait_begun(Socket)
        end
    end.

%% The server's end in one of the ways, and what closes it.
server(Way) when Way =:= port; Way =:= fd ->
    {Client, Server} = reactor_test:pair([]),
    {Client, Server, fun() -> gen_tcp:close(Server) end};
server(inet_backend) ->
    {ok, Listen} = gen_tcp:listen(0, [{inet_backend, socket}, binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    {ok, Server} = gen_tcp:accept(Listen),
    gen_tcp:close(Listen),
    {Client, Server, fun() -> gen_tcp:close(Server) end};
server(socket) ->
    {ok, Listen} = socket:open(inet, stream),
    ok = socket:bind(Listen, #{family => inet, port => 0, addr => {127, 0, 0, 1}}),
    ok = socket:listen(Listen),
    {ok, #{port := Port}} = socket:sockname(Listen),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    {ok, Server} = socket:accept(Listen),
    ok = socket:close(Listen),
    {Client, Server, fun() -> socket:close(Server) end}.

%% The same, step by step: when the port is closed, and its number another's, the duplicate is what is handed over.
closed_in_between(Config) ->
    serving(Config, "peers.Known", fun(Context) ->
        {ok, _, Ctx} = py_context_lookup:resolve(Context),
        {Client, Server} = reactor_test:pair(Config),
        {ok, Number} = inet:getfd(Server),
        {ok, Port} = inet:port(Client),
        {ok, {Fd, How, Server} = Taken} = py_reactor_socket:take(Server),
        ?assertEqual({error, {already_handed_off, Server}}, handoff_elsewhere(Context, Server)),
        ok = gen_tcp:close(Server),
        Strangers = [element(2, gen_tcp:listen(0, [])) || _ <- lists:seq(1, 20)],
        [Stranger] = [S || S <- Strangers, inet:getfd(S) =:= {ok, Number}],
        ok = py_reactor_socket:release(Taken, py_nif:handoff(Ctx, Fd, #{<<"port">> => Port}, How)),
        exchange(Client),
        ?assertEqual({ok, []}, py:eval(Context, "__import__('peers').strangers")),
        ?assertEqual({ok, Number}, inet:getfd(Stranger)),
        ?assertMatch({error, {bad_socket, Server, _}}, py_reactor_context:handoff(Context, Server, info())),
        [gen_tcp:close(S) || S <- Strangers]
    end).

handoff_elsewhere(Context, Server) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({said, py_reactor_context:handoff(Context, Server, info())}) end),
    receive
        {'DOWN', Monitor, process, Pid, {said, Result}} -> Result
    end.

handed_over_twice(Config) ->
    serving(Config, "peers.Known", fun(Context) ->
        [handed_over_twice(Way, Context) || Way <- [port, inet_backend, socket, dup_fd], _ <- lists:seq(1, 200)],
        reactor_test:wait_connections(Context, 0)
    end).

handed_over_twice(dup_fd, Context) ->
    {Client, Server} = reactor_test:pair([]),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    Refused = {error, {already_handed_off, Duplicate}},
    ?assertEqual([ok, Refused, Refused, Refused], lists:sort(at_once(Context, Duplicate, Client))),
    gen_tcp:close(Client),
    gen_tcp:close(Server);
handed_over_twice(Way, Context) ->
    {Client, Server, _Close} = server(Way),
    Results = at_once(Context, Server, Client),
    ?assertMatch([_], [ok || ok <- Results]),
    [
        case Result of
            {error, {bad_socket, _, _}} -> ok;
            {error, {already_handed_off, _}} -> ok
        end
     || Result <- Results, Result =/= ok
    ],
    gen_tcp:close(Client).

at_once(Context, Source, Client) ->
    {ok, Port} = inet:port(Client),
    Handovers = [
        spawn_monitor(fun() ->
            receive
                go -> exit({said, py_reactor_context:handoff(Context, Source, #{type => tcp, port => Port})})
            end
        end)
     || _ <- lists:seq(1, 4)
    ],
    [Pid ! go || {Pid, _} <- Handovers],
    [
        receive
            {'DOWN', Monitor, process, Pid, {said, Result}} -> Result
        end
     || {Pid, Monitor} <- Handovers
    ].

%% Whoever it is handed to closes it: its peer sees the end.
duplicates_are_closed_in_every_answer(Config) ->
    with_context(Config, #{max_connections => 1, linger_ms => 0}, fun(Context) ->
        ok = py:exec(Context, reactor_test:factory("streams.Echo")),
        refused({error, {no_context, 99999999}}, 99999999, info(), Config),
        refused({error, {no_context, nonsense}}, nonsense, info(), Config),
        {Dead, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, process, Dead, normal} -> ok end,
        refused({error, stopped}, Dead, info(), Config),
        {error, {bad_info, _}} = refused(any, Context, [not_a_map], Config),
        {Client, Server} = reactor_test:pair(Config),
        ok = py_reactor_context:handoff(Context, Server, info()),
        refused({error, {max_connections, 1}}, Context, info(), Config),
        gen_tcp:close(Client),
        ok = py_reactor_context:drain(Context, 60000),
        refused({error, draining}, Context, info(), Config)
    end).

refused(Expected, Context, Info, Config) ->
    {Client, Server} = reactor_test:pair(Config),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = gen_tcp:close(Server),
    Result = py_reactor_context:handoff(Context, Duplicate, Info),
    [?assertEqual(Expected, Result) || Expected =/= any],
    expect_eof(Client),
    ?assertEqual({error, {bad_fd, Duplicate}}, py:close_fd(Duplicate)),
    gen_tcp:close(Client),
    Result.

close_fd_closes_what_dup_fd_made(Config) ->
    {Client, Server} = reactor_test:pair(Config),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ?assertEqual({error, {bad_fd, Fd}}, py:close_fd(Fd)),
    ok = gen_tcp:close(Server),
    ok = py:close_fd(Duplicate),
    expect_eof(Client),
    [?assertEqual({error, {bad_fd, Bad}}, py:close_fd(Bad)) || Bad <- [Duplicate, -1, 99999999999, nonsense]].

%% Its number is another client's at once, who must get that answer nor be cut, whoever tells the reactor.
a_protocol_that_closes_its_descriptor(Config) ->
    ok = log_collector:install(),
    serving(Config, "peers.Wrapping", fun(Context) -> [closes_its_own(How, Context, Config) || How <- [<<"wrap">>, <<"close">>]] end),
    log_collector:remove().

closes_its_own(How, Context, Config) ->
    {Alice, Tag} = reactor_test:client(Context, Config),
    send(Alice, <<"login alice">>),
    expect(Alice, <<"hello alice">>),
    [#{fd := Fd}] = py_reactor_context:connections(Context),
    {Bob, Server} = reactor_test:pair(Config),
    Monitor = py_reactor_context:monitor_connection(Context, Fd),
    send(Alice, How),
    reactor_test:wait_until(closed, fun() -> py:eval(Context, ["__import__('os').path.exists('/proc/self/fd/", integer_to_list(Fd), "')"]) =:= {ok, false} end),
    ok = py_reactor_context:handoff(Context, numbered(Fd, Server), #{tag => Tag}),
    send(Bob, <<"login bob">>),
    expect(Bob, <<"hello bob">>),
    ?assertMatch([#{fd := Fd}], py_reactor_context:connections(Context)),
    expect_eof(Alice),
    receive
        {py_connection_down, Monitor, Fd, Reason} -> ?assertEqual(exception, Reason)
    end,
    {ok, Id} = py_reactor_table:id(Context),
    _ = log_collector:await(Id, ["was closed by somebody else", "os.dup(self.fd)"]),
    send(Bob, <<"who">>),
    expect(Bob, <<"you are bob">>),
    gen_tcp:close(Alice),
    gen_tcp:close(Bob),
    reactor_test:wait_connections(Context, 0).

%% A duplicate of a socket by that number, which is free; lower ones may be as well.
numbered(Number, Socket) ->
    {ok, Fd} = inet:getfd(Socket),
    Duplicates = duplicates(Fd, Number),
    [ok = py:close_fd(Other) || Other <- Duplicates, Other =/= Number],
    ok = gen_tcp:close(Socket),
    Number.

duplicates(Fd, Number) ->
    case py:dup_fd(Fd) of
        {ok, Number} -> [Number];
        {ok, Lower} when Lower < Number -> [Lower | duplicates(Fd, Number)]
    end.

%% One that lingers is known to nobody any more, but has its number still: when that is another client's, its end leaves that
%% one alone.
a_newcomer_with_the_number_of_one_that_lingers(Config) ->
    reactor_test:serving(Config, "peers.Leaves", #{linger_ms => 60000}, fun(Context) ->
        {Alice, _} = reactor_test:client(Context, Config, #{}, [{exit_on_close, false}]),
        send(Alice, <<"first">>),
        expect(Alice, <<"first">>),
        [#{fd := Fd}] = py_reactor_context:connections(Context),
        Monitor = py_reactor_context:monitor_connection(Context, Fd),
        send(Alice, <<"leave">>),
        receive
            {py_connection_down, Monitor, Fd, closed} -> ok
        after 30000 -> error(timeout)
        end,
        expect_eof(Alice),
        ?assertMatch(#{connections := 1}, py_reactor_context:stats(Context)),
        {Bob, Server} = reactor_test:pair(Config),
        {ok, none} = py:call(Context, os, close, [Fd]),
        ok = py_reactor_context:handoff(Context, numbered(Fd, Server), #{tag => reactor_test:tag()}),
        send(Bob, <<"hello">>),
        expect(Bob, <<"hello">>),
        reactor_test:wait_connections(Context, 1),
        ?assertMatch([#{fd := Fd}], py_reactor_context:connections(Context)),
        [
            begin
                send(Bob, <<"are you there">>),
                expect(Bob, <<"are you there">>)
            end
         || _ <- lists:seq(1, 3)
        ],
        ok = py_reactor_context:close(Context, Fd),
        expect_eof(Bob),
        [gen_tcp:close(Client) || Client <- [Alice, Bob]]
    end).

%% The document's asyncio sample, as it stands.
samples(Config, Fun) ->
    Samples = filename:join([filename:dirname(code:which(?MODULE)), "python", "samples"]),
    with_context(Config, #{python_path => [Samples, reactor_test:python_path()]}, Fun).

asyncio_sample(Config, Function) ->
    samples(Config, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        ok = gen_tcp:close(Server),
        send(Client, <<"hello">>),
        Before = os_resources:snapshot(),
        ?assertEqual({ok, none}, py:call(Context, asyncio_handler, Function, [Duplicate])),
        ?assertEqual(<<"Echo: hello">>, reactor_test:receive_all(Client)),
        gen_tcp:close(Client),
        os_resources:wait_back_to(Before)
    end).

method_2_coroutine(Config) ->
    asyncio_sample(Config, handle_connection).

method_2_blocking_wrapper(Config) ->
    asyncio_sample(Config, handle_connection_sync).

method_3_connects_back(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
        {ok, {Address, Port}} = inet:sockname(Listen),
        {ok, none} = py:call(Context, handlers, connect_to, [list_to_binary(inet:ntoa(Address)), Port]),
        {ok, Server} = gen_tcp:accept(Listen),
        ?assertEqual(<<"hello from a new socket">>, reactor_test:receive_all(Server))
    end).
