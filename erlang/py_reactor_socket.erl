%% @doc Who owns a descriptor, and how it is taken away from Erlang.
%%
%% Three cases. A `gen_tcp' or `gen_udp' port: the reactor gets a duplicate and the port is closed afterwards; that sends
%% no FIN, because the duplicate keeps the connection open (the driver calls close(2) only, never shutdown(2)). A socket
%% of the module `socket', or a `gen_tcp' socket that is made of one: closing it makes the connection blocking again, for
%% every duplicate, so it is duplicated and closed *before* the reactor gets, and prepares, the duplicate. A number that
%% no port of the caller owns: the native half decides, see `py_nif:how()'.
%%
%% Bytes that the Erlang socket holds cannot be moved, so that active sockets and sockets with unsent output are refused.
%% A passive socket in a packet mode (`{packet, line}', say) may have read more than it gave out: read with `raw'.
%% @private
-module(py_reactor_socket).

-export([take/1, release/2]).
-export_type([source/0, taken/0]).

-type source() :: integer() | gen_tcp:socket() | gen_udp:socket() | socket:socket().
-type taken() :: {Fd :: integer(), py_nif:how(), port() | none}.
%% The descriptor, how the native half is to take it, and the port to close afterwards.

%% A descriptor is a C int.
-define(FD_MAX, 16#7FFFFFFF).

%% Finds the descriptor of a number or a socket.
-spec take(source() | term()) -> {ok, taken()} | {error, term()}.
take(Fd) when is_integer(Fd), Fd >= 0, Fd =< ?FD_MAX ->
    case port_of(Fd) of
        {ok, Port} -> take_port(Port, Fd);
        error -> {ok, {Fd, auto, none}}
    end;
take(Fd) when is_integer(Fd) ->
    {error, {bad_fd, Fd}};
take(Port) when is_port(Port) ->
    case inet:getfd(Port) of
        {ok, Fd} -> take_port(Port, Fd);
        {error, Posix} -> bad_socket(Port, Posix)
    end;
take({'$inet', _Module, {_Pid, Socket}} = Inet) ->
    %% inet:getfd/1 does not know these before OTP 27.
    case passive(Inet) of
        ok -> take_socket(Socket, fun() -> inet:close(Inet) end);
        {error, _} = Error -> Error
    end;
take({'$socket', _Ref} = Socket) ->
    take_socket(Socket, fun() -> socket:close(Socket) end);
take(Other) ->
    {error, {bad_socket, Other, <<"neither a descriptor nor a socket of gen_tcp, gen_udp or socket">>}}.

%% Ends Erlang's part in it after the native half has answered. A connection that is refused for want of room is closed
%% too: its peer must see the end of it. After any other refusal the caller still has its socket.
-spec release(taken(), ok | {error, term()}) -> ok.
release({_Fd, _How, none}, _Result) ->
    ok;
release({_Fd, _How, Port}, ok) ->
    inet:close(Port);
release({_Fd, _How, Port}, {error, {max_connections, _}}) ->
    inet:close(Port);
release({_Fd, _How, _Port}, {error, _}) ->
    ok.

-spec take_port(port(), integer()) -> {ok, taken()} | {error, term()}.
take_port(Port, Fd) ->
    case passive(Port) of
        ok -> flushed(Port, Fd);
        {error, _} = Error -> Error
    end.

-spec passive(term()) -> ok | {error, term()}.
passive(Socket) ->
    case inet:getopts(Socket, [active]) of
        {ok, [{active, false}]} ->
            ok;
        {ok, _Active} ->
            {error,
                {active_socket, <<
                    "what has arrived may be in the mailbox already: open the socket with {active, false}, "
                    "or call inet:setopts(Socket, [{active, false}]) before anything can arrive"
                >>}};
        {error, Posix} ->
            bad_socket(Socket, Posix)
    end.

%% Output that the driver still holds would be mixed with what the protocol writes.
-spec flushed(port(), integer()) -> {ok, taken()} | {error, term()}.
flushed(Port, Fd) ->
    case inet:getstat(Port, [send_pend]) of
        {ok, [{send_pend, 0}]} ->
            {ok, {Fd, dup, Port}};
        {ok, [{send_pend, Bytes}]} ->
            {error, {output_pending, Bytes, <<"the peer has not read what was sent: hand over when it has">>}};
        {error, Posix} ->
            bad_socket(Port, Posix)
    end.

-spec take_socket(socket:socket(), fun(() -> ok | {error, term()})) -> {ok, taken()} | {error, term()}.
take_socket(Socket, Close) ->
    case socket:getopt(Socket, {otp, fd}) of
        {ok, Fd} ->
            case py_nif:dup_fd(Fd) of
                {ok, Duplicate} ->
                    _ = Close(),
                    {ok, {Duplicate, adopt, none}};
                {error, _} = Error ->
                    Error
            end;
        {error, Posix} ->
            bad_socket(Socket, Posix)
    end.

-spec bad_socket(term(), term()) -> {error, {bad_socket, term(), term()}}.
bad_socket(Socket, Reason) ->
    {error, {bad_socket, Socket, Reason}}.

%% The caller's own port with that number. Ports of other processes stay out of reach: closing them is not for us.
-spec port_of(integer()) -> {ok, port()} | error.
port_of(Fd) ->
    {links, Links} = process_info(self(), links),
    find_port(Fd, [Port || Port <- Links, is_port(Port)]).

-spec find_port(integer(), [port()]) -> {ok, port()} | error.
find_port(_Fd, []) ->
    error;
find_port(Fd, [Port | Rest]) ->
    case is_inet(Port) andalso inet:getfd(Port) of
        {ok, Fd} -> {ok, Port};
        _Other -> find_port(Fd, Rest)
    end.

-spec is_inet(port()) -> boolean().
is_inet(Port) ->
    case erlang:port_info(Port, name) of
        {name, Name} -> lists:member(Name, ["tcp_inet", "udp_inet", "sctp_inet"]);
        undefined -> false
    end.
