%% Echo with OTP's module `socket', one process for each connection, which receives and sends in turn.
-module(bench_socket).
-behaviour(bench_server).

-export([serve/1]).

-define(LOOPBACK, #{family => inet, addr => {127, 0, 0, 1}, port => 0}).
-define(ACCEPTORS, 10).
%% Bytes that one receive may answer.
-define(RECEIVE_BYTES, 65536).

-spec serve([string()]) -> {ok, inet:port_number(), iodata()}.
serve(["echo"]) ->
    {ok, Listening} = open(stream, 0),
    ok = socket:setopt(Listening, {tcp, nodelay}, true),
    ok = socket:setopt(Listening, {otp, rcvbuf}, ?RECEIVE_BYTES),
    ok = socket:listen(Listening, 4096),
    _ = [spawn_link(fun() -> accept(Listening) end) || _ <- lists:seq(1, ?ACCEPTORS)],
    {ok, #{port := Port}} = socket:sockname(Listening),
    {ok, Port, "socket, "};
serve(["udp"]) ->
    Serve = fun(Port) ->
        {ok, Socket} = open(dgram, Port),
        _ = spawn_link(fun() -> echo_datagrams(Socket) end),
        {ok, #{port := Opened}} = socket:sockname(Socket),
        Opened
    end,
    Port = lists:foldl(fun(_, Port) -> Serve(Port) end, 0, lists:seq(1, bench_server:contexts())),
    {ok, Port, "socket, "}.

-spec open(stream | dgram, inet:port_number()) -> {ok, socket:socket()}.
open(Type, Port) ->
    {ok, Socket} = socket:open(inet, Type, default),
    ok = socket:setopt(Socket, {socket, reuseport}, true),
    ok = socket:bind(Socket, ?LOOPBACK#{port := Port}),
    {ok, Socket}.

-spec accept(socket:socket()) -> no_return().
accept(Listening) ->
    {ok, Socket} = socket:accept(Listening),
    Pid = spawn(fun() ->
        receive
            yours -> echo(Socket)
        end
    end),
    _ = socket:setopt(Socket, {otp, controlling_process}, Pid),
    Pid ! yours,
    accept(Listening).

-spec echo(socket:socket()) -> ok | {error, term()}.
echo(Socket) ->
    case socket:recv(Socket, 0) of
        {ok, Data} ->
            _ = socket:send(Socket, Data),
            echo(Socket);
        {error, _} ->
            socket:close(Socket)
    end.

-spec echo_datagrams(socket:socket()) -> no_return().
echo_datagrams(Socket) ->
    case socket:recvfrom(Socket, ?RECEIVE_BYTES) of
        {ok, {From, Data}} -> _ = socket:sendto(Socket, Data, From);
        {error, econnrefused} -> ok
    end,
    echo_datagrams(Socket).
