%% The samples of the reactor's original document, as they stand there: only Erlang's and Python's own tools are used.
-module(samples_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [send/2, expect/2, expect_eof/1]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        echo,
        echo_of_ten_megabytes,
        http,
        http_in_pieces,
        http_twenty_at_a_time,
        http_of_a_client_that_shuts_down,
        only_data_received,
        buffer_operations,
        option_1_transfer,
        option_2_duplicate,
        accept_loop_serves_on,
        thousands_of_connections
    ]).

%% handoff/2 goes to context 1.
init_per_testcase(_Case, Config) ->
    _ = py_reactor_context:stop(1, 0),
    Samples = filename:join([filename:dirname(code:which(?MODULE)), "python", "samples"]),
    {ok, _} = py_reactor:start_context(1, reactor_test:mode(Config), reactor_test:options(Config, #{python_path => [Samples]})),
    %% The samples print for each connection.
    ok = py:exec("import os, sys\nsys.stdout = open(os.devnull, 'w')"),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = py:exec("sys.stdout.close()\nsys.stdout = sys.__stdout__"),
    py_reactor_context:stop(1, 0).

%% "Starting a Reactor Server" of the document. The module sets its class as the factory when it is imported.
start(Module, Class) ->
    Ctx = py:context(1),
    ok = py:exec(Ctx, ["
import erlang.reactor as reactor
from ", Module, " import ", Class, "
reactor.set_protocol_factory(", Class, ")
"]),
    Test = self(),
    spawn_link(fun() ->
        {ok, ListenSock} = gen_tcp:listen(0, [binary, {active, false}, {reuseaddr, true}]),
        {ok, Port} = inet:port(ListenSock),
        Test ! {port, Port},
        accept_loop(ListenSock)
    end),
    receive
        {port, Port} -> Port
    end.

accept_loop(ListenSock) ->
    {ok, ClientSock} = gen_tcp:accept(ListenSock),
    {ok, {Addr, Port}} = inet:peername(ClientSock),
    %% Hand off to Python reactor
    {ok, Fd} = inet:getfd(ClientSock),
    py_reactor_context:handoff(Fd, #{
        addr => inet:ntoa(Addr),
        port => Port,
        type => tcp
    }),
    accept_loop(ListenSock).

connect(Port) ->
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {exit_on_close, false}]),
    Client.

echoes(Client) ->
    send(Client, <<"hello">>),
    expect(Client, <<"hello">>).

echo(_Config) ->
    Port = start("echo_protocol", "EchoProtocol"),
    Clients = [connect(Port) || _ <- lists:seq(1, 20)],
    [echoes(Client) || Client <- Clients, _ <- lists:seq(1, 3)],
    [ok = gen_tcp:shutdown(Client, write) || Client <- Clients],
    [expect_eof(Client) || Client <- Clients],
    reactor_test:wait_connections(1, 0),
    ?assertMatch(#{exceptions := 0, accepted := 20, closed := 20}, py_reactor_context:stats(1)).

echo_of_ten_megabytes(_Config) ->
    Client = connect(start("echo_protocol", "EchoProtocol")),
    Data = crypto:strong_rand_bytes(10000000),
    {Sender, Monitor} = spawn_monitor(fun() -> ok = gen_tcp:send(Client, Data) end),
    {ok, Echo} = reactor_test:receive_bytes(Client, byte_size(Data)),
    ?assertEqual(erlang:md5(Data), erlang:md5(Echo)),
    receive
        {'DOWN', Monitor, process, Sender, Reason} -> ?assertEqual(normal, Reason)
    end.

request(Path) ->
    ["GET ", Path, " HTTP/1.0\r\nHost: localhost\r\n\r\n"].

page(Path) ->
    Body = ["Hello! You requested ", Path],
    iolist_to_binary([
        "HTTP/1.0 200 OK\r\nContent-Length: ", integer_to_list(iolist_size(Body)), "\r\nContent-Type: text/plain\r\n\r\n", Body
    ]).

http(_Config) ->
    Port = start("simple_http_protocol", "SimpleHTTPProtocol"),
    [
        begin
            Client = connect(Port),
            send(Client, request(Path)),
            %% The client sees the end, although Erlang never closed its socket.
            ?assertEqual(page(Path), reactor_test:receive_all(Client)),
            gen_tcp:close(Client)
        end
     || Path <- ["/", "/x", "/a/long/path?with=query", "/" ++ lists:duplicate(5000, $x)]
    ],
    reactor_test:wait_connections(1, 0),
    ?assertMatch(#{exceptions := 0}, py_reactor_context:stats(1)).

http_in_pieces(_Config) ->
    Client = connect(start("simple_http_protocol", "SimpleHTTPProtocol")),
    ok = inet:setopts(Client, [{nodelay, true}]),
    [send(Client, [Byte]) || Byte <- lists:flatten(request("/slow"))],
    ?assertEqual(page("/slow"), reactor_test:receive_all(Client)).

http_twenty_at_a_time(_Config) ->
    Each = reactor_test:times(25, 100),
    All = 20 * Each,
    Port = start("simple_http_protocol", "SimpleHTTPProtocol"),
    Test = self(),
    Pids = [
        spawn_link(fun() ->
            [
                begin
                    Client = connect(Port),
                    Path = io_lib:format("/~b/~b", [Worker, N]),
                    send(Client, request(Path)),
                    Expected = page(Path),
                    Expected = reactor_test:receive_all(Client),
                    gen_tcp:close(Client)
                end
             || N <- lists:seq(1, Each)
            ],
            Test ! {self(), done}
        end)
     || Worker <- lists:seq(1, 20)
    ],
    [receive {Pid, done} -> ok end || Pid <- Pids],
    reactor_test:wait_connections(1, 0),
    ?assertMatch(#{accepted := All, closed := All, exceptions := 0}, py_reactor_context:stats(1)).

http_of_a_client_that_shuts_down(_Config) ->
    Client = connect(start("simple_http_protocol", "SimpleHTTPProtocol")),
    send(Client, request("/half")),
    ok = gen_tcp:shutdown(Client, write),
    ?assertEqual(page("/half"), reactor_test:receive_all(Client)).

only_data_received(_Config) ->
    Client = connect(start("my_protocol", "MyProtocol")),
    send(Client, <<"one">>),
    expect(Client, <<"Got: one">>),
    send(Client, <<"two">>),
    expect(Client, <<"Got: two">>).

buffer_operations(_Config) ->
    Client = connect(start("buffer_operations", "BufferProtocol")),
    send(Client, <<"GET / HTTP/1.0\r\n">>),
    reactor_test:wait_equal(1, fun() -> maps:get(messages, py_reactor_context:stats(1)) end),
    ?assertMatch(#{exceptions := 0}, py_reactor_context:stats(1)),
    gen_tcp:close(Client).

accepted() ->
    {ok, ListenSock} = gen_tcp:listen(0, [binary, {active, false}, {reuseaddr, true}]),
    {ok, Port} = inet:port(ListenSock),
    Client = connect(Port),
    {ok, ClientSock} = gen_tcp:accept(ListenSock),
    gen_tcp:close(ListenSock),
    {Client, ClientSock}.

option_1_transfer(_Config) ->
    ok = py:exec("from echo_protocol import EchoProtocol, reactor\nreactor.set_protocol_factory(EchoProtocol)"),
    {Client, ClientSock} = accepted(),
    {ok, Fd} = inet:getfd(ClientSock),
    ok = py_reactor_context:handoff(Fd, #{type => tcp}),
    echoes(Client).

option_2_duplicate(_Config) ->
    ok = py:exec("from echo_protocol import EchoProtocol, reactor\nreactor.set_protocol_factory(EchoProtocol)"),
    {Client, ClientSock} = accepted(),
    {ok, Fd} = inet:getfd(ClientSock),
    {ok, DupFd} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(DupFd, #{type => tcp}),
    ok = gen_tcp:close(ClientSock),
    echoes(Client).

%% The loop of the document matches on {ok, _} of inet:peername/1, which fails for a client that is gone already: so this
%% one counts on clients that are not. What they do afterwards must not matter.
accept_loop_serves_on(_Config) ->
    Port = start("echo_protocol", "EchoProtocol"),
    [
        begin
            Client = connect(Port),
            echoes(Client),
            reactor_test:reset(Client)
        end
     || _ <- lists:seq(1, 100)
    ],
    echoes(connect(Port)).

thousands_of_connections(_Config) ->
    Port = start("echo_protocol", "EchoProtocol"),
    Cycle = fun(_) ->
        Client = connect(Port),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        gen_tcp:close(Client)
    end,
    lists:foreach(Cycle, lists:seq(1, 50)),
    reactor_test:wait_connections(1, 0),
    Before = os_resources:snapshot(),
    lists:foreach(Cycle, lists:seq(1, reactor_test:times(1000, 5000))),
    reactor_test:wait_connections(1, 0),
    os_resources:wait_back_to(Before).
