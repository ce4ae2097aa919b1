%% @doc Who owns a descriptor, and how it is taken away from Erlang.
%%
%% A number that was asked for may be somebody else's a moment later: its owner closes it, and the next socket of the VM gets it.
%% So a socket is duplicated first, then asked again whether it is still there, and only what was duplicated while it was
%% goes to the reactor.
%%
%% Three cases. A `gen_tcp' or `gen_udp' port is closed after the native half has taken the duplicate; that sends no FIN,
%% because the duplicate keeps the connection open (the driver calls close(2) only, never shutdown(2)). A socket of the
%% module `socket', or a `gen_tcp' socket that is made of one: closing it makes the connection blocking again, for
%% every duplicate, so it is closed *before* the reactor gets, and prepares, the duplicate; who closes it is the one who
%% hands it over. A number that no port of the caller owns: the native half decides, see `py_nif:how()'.
%%
%% Bytes that the Erlang socket holds cannot be moved, so that active sockets and sockets with unsent output are refused.
%% A passive socket in a packet mode (`{packet, line}', say) may have read more than it gave out: read with `raw'.
%% @private
-module(py_reactor_socket).

-export([hand_over/3, take/1, release/2, discard/1]).
-export_type([source/0, taken/0]).

-type source() :: integer() | gen_tcp:socket() | gen_udp:socket() | socket:socket().
-type taken() :: {Fd :: integer(), py_nif:how(), port() | none}.
%% The descriptor, how the native half is to take it, and the port to close afterwards.

%% A descriptor is a C int.
-define(FD_MAX, 16#7FFFFFFF).

%% Takes a source and gives it to a context, or says why not.
-spec hand_over(py_nif:ctx(), source(), py_info:info()) -> ok | {error, term()}.
hand_over(Ctx, Source, Info) ->
    case py_info:normalise(Info) of
        {ok, ClientInfo} ->
            case take(Source) of
                {ok, {Fd, How, _Port} = Taken} -> release(Taken, py_nif:handoff(Ctx, Fd, ClientInfo, How));
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            ok = discard(Source),
            Error
    end.

%% Makes a number or a socket ready to be handed over.
-spec take(source() | term()) -> {ok, taken()} | {error, term()}.
take(Fd) when is_integer(Fd), Fd >= 0, Fd =< ?FD_MAX ->
    case port_of(Fd) of
        {ok, Port} -> take_port(Port);
        error -> {ok, {Fd, auto, none}}
    end;
take(Fd) when is_integer(Fd) ->
    {error, {bad_fd, Fd}};
take(Port) when is_port(Port) ->
    take_port(Port);
take({'$inet', _Module, {_Pid, Socket}} = Inet) ->
    %% inet:getfd/1 does not know these before OTP 27.
    case passive(Inet) of
        ok -> take_socket(Inet, Socket, fun() -> inet:close(Inet) end);
        {error, _} = Error -> Error
    end;
take({'$socket', _Ref} = Socket) ->
    take_socket(Socket, Socket, fun() -> ok end);
take(Other) ->
    {error, {bad_socket, Other, <<"neither a descriptor nor a socket of gen_tcp, gen_udp or socket">>}}.

%% Ends Erlang's part in it after the native half has answered. A connection that is refused for want of room is closed
%% too: its peer must see the end of it. After any other refusal the caller still has its port.
-spec release(taken(), Result) -> Result when Result :: ok | {error, term()}.
release({_Fd, _How, none}, Result) ->
    Result;
release({Duplicate, _How, Port}, Result) ->
    Said = said(Result, Duplicate, Port),
    _ = [inet:close(Port) || is_over(Result)],
    ok = py_reactor_table:end_handoff(Port),
    Said.

-spec is_over(ok | {error, term()}) -> boolean().
is_over(ok) -> true;
is_over({error, {max_connections, _}}) -> true;
is_over({error, _}) -> false.

%% The caller knows the number of its port, not that of the duplicate.
-spec said(Result, integer(), port()) -> Result when Result :: ok | {error, term()}.
said({error, {Why, Duplicate}}, Duplicate, Port) ->
    case inet:getfd(Port) of
        {ok, Fd} -> {error, {Why, Fd}};
        {error, _} -> closed(Port)
    end;
said(Result, _Duplicate, _Port) ->
    Result.

%% Nobody will take it. A number from `py:dup_fd/1' belongs to whoever it is handed to, so it is closed; everything else
%% stays with the caller.
-spec discard(source() | term()) -> ok.
discard(Fd) when is_integer(Fd), Fd >= 0, Fd =< ?FD_MAX ->
    _ = py_nif:close_fd(Fd),
    ok;
discard(_Other) ->
    ok.

-spec take_port(port()) -> {ok, taken()} | {error, term()}.
take_port(Port) ->
    case py_reactor_table:begin_handoff(Port) of
        true ->
            case checked_port(Port) of
                {ok, _Taken} = Ok ->
                    Ok;
                {error, _} = Error ->
                    ok = py_reactor_table:end_handoff(Port),
                    Error
            end;
        false ->
            {error, {already_handed_off, Port}}
    end.

-spec checked_port(port()) -> {ok, taken()} | {error, term()}.
checked_port(Port) ->
    case passive(Port) of
        ok ->
            case flushed(Port) of
                ok -> duplicate_port(Port);
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec duplicate_port(port()) -> {ok, taken()} | {error, term()}.
duplicate_port(Port) ->
    case inet:getfd(Port) of
        {ok, Fd} ->
            case py_nif:dup_fd(Fd) of
                {ok, Duplicate} -> still_there(Port, Fd, Duplicate);
                {error, {bad_fd, _}} -> closed(Port);
                {error, _} = Error -> Error
            end;
        {error, _} ->
            closed(Port)
    end.

%% A port never has another descriptor: it was this one's when it was duplicated.
-spec still_there(port(), integer(), integer()) -> {ok, taken()} | {error, term()}.
still_there(Port, Fd, Duplicate) ->
    case inet:getfd(Port) of
        {ok, Fd} ->
            {ok, {Duplicate, adopt, Port}};
        _Gone ->
            ok = py_nif:close_fd(Duplicate),
            closed(Port)
    end.

-spec closed(term()) -> {error, {bad_socket, term(), closed}}.
closed(Socket) ->
    {error, {bad_socket, Socket, closed}}.

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
-spec flushed(port()) -> ok | {error, term()}.
flushed(Port) ->
    case inet:getstat(Port, [send_pend]) of
        {ok, [{send_pend, 0}]} ->
            ok;
        {ok, [{send_pend, Bytes}]} ->
            {error, {output_pending, Bytes, <<"the peer has not read what was sent: hand over when it has">>}};
        {error, Posix} ->
            bad_socket(Port, Posix)
    end.

%% Only one closes a socket, and it was there until then.
-spec take_socket(source(), socket:socket(), fun(() -> term())) -> {ok, taken()} | {error, term()}.
take_socket(Source, Socket, Tidy) ->
    case socket:getopt(Socket, {otp, fd}) of
        {ok, Fd} ->
            case py_nif:dup_fd(Fd) of
                {ok, Duplicate} ->
                    case socket:close(Socket) of
                        ok ->
                            _ = Tidy(),
                            {ok, {Duplicate, adopt, none}};
                        {error, _} ->
                            ok = py_nif:close_fd(Duplicate),
                            closed(Source)
                    end;
                {error, {bad_fd, _}} ->
                    closed(Source);
                {error, _} = Error ->
                    Error
            end;
        {error, Posix} ->
            bad_socket(Source, Posix)
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
