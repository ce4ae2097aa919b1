%% Echo with `gen_tcp' and `gen_udp', one process for each connection.
%%
%% `{active, N}': data comes as messages, without a call for each, and the count that must be renewed bounds the mailbox
%% of a process whose peer reads too slowly. N is what ranch and cowboy use. Tried: `{active, true}' is no faster and
%% bounds nothing, `{active, once}' takes about a sixth more CPU time for each short message. `buffer' is what one read
%% may bring: the default of 1460 bytes takes four times as long for messages of 16 KiB, and is no faster for short ones.
-module(bench_gen_tcp).
-behaviour(bench_server).

-export([serve/1]).

-define(IP, {127, 0, 0, 1}).
-define(ACTIVE, 100).
-define(ACCEPTORS, 10).

-spec serve([string()]) -> {ok, inet:port_number(), iodata()}.
serve(["echo"]) ->
    {ok, Listening} = gen_tcp:listen(0, [
        binary, {ip, ?IP}, {active, false}, {nodelay, true}, {backlog, 4096}, {buffer, 65536}
    ]),
    _ = [spawn_link(fun() -> accept(Listening) end) || _ <- lists:seq(1, ?ACCEPTORS)],
    {ok, Port} = inet:port(Listening),
    {ok, Port, "gen_tcp, "};
serve(["udp"]) ->
    %% The buffer is as long as the longest datagram.
    Options = [{active, ?ACTIVE}, {buffer, 65536} | bench_server:udp_options()],
    Open = fun(Port) ->
        Self = self(),
        _ = spawn_link(fun() ->
            {ok, Socket} = gen_udp:open(Port, Options),
            {ok, Opened} = inet:port(Socket),
            Self ! {port, Opened},
            echo_datagrams(Socket)
        end),
        receive
            {port, Opened} -> Opened
        end
    end,
    Port = lists:foldl(fun(_, Port) -> Open(Port) end, 0, lists:seq(1, bench_server:contexts())),
    {ok, Port, "gen_udp, "}.

-spec accept(gen_tcp:socket()) -> no_return().
accept(Listening) ->
    {ok, Socket} = gen_tcp:accept(Listening),
    Pid = spawn(fun() ->
        receive
            yours -> ok = inet:setopts(Socket, [{active, ?ACTIVE}])
        end,
        echo(Socket)
    end),
    _ = gen_tcp:controlling_process(Socket, Pid),
    Pid ! yours,
    accept(Listening).

-spec echo(gen_tcp:socket()) -> ok.
echo(Socket) ->
    receive
        {tcp, Socket, Data} ->
            _ = gen_tcp:send(Socket, Data),
            echo(Socket);
        {tcp_passive, Socket} ->
            _ = inet:setopts(Socket, [{active, ?ACTIVE}]),
            echo(Socket);
        {tcp_closed, Socket} ->
            gen_tcp:close(Socket);
        {tcp_error, Socket, _Reason} ->
            gen_tcp:close(Socket)
    end.

-spec echo_datagrams(gen_udp:socket()) -> no_return().
echo_datagrams(Socket) ->
    receive
        {udp, Socket, Ip, Port, Data} -> _ = gen_udp:send(Socket, Ip, Port, Data);
        {udp_passive, Socket} -> ok = inet:setopts(Socket, [{active, ?ACTIVE}])
    end,
    echo_datagrams(Socket).
