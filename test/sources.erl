%% The ways to make a connection and to hand its server end over.
-module(sources).

-export([ways/0, serve/3]).

ways() ->
    [
        fd_of_port,
        dup_fd,
        dup_fd_closed_later,
        port,
        unix_fd_of_port,
        unix_dup_fd,
        unix_port,
        inet_backend,
        socket,
        unix_socket,
        dup_fd_of_socket,
        adopted_by_listener
    ].

%% A client whose server end was handed to the context in that way. Nothing of it stays in Erlang.
serve(fd_of_port, Context, Info) ->
    {Client, Server} = tcp([]),
    {ok, Fd} = inet:getfd(Server),
    ok = py_reactor_context:handoff(Context, Fd, Info),
    undefined = erlang:port_info(Server),
    Client;
serve(dup_fd, Context, Info) ->
    {Client, Server} = tcp([]),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(Context, Duplicate, Info),
    ok = gen_tcp:close(Server),
    Client;
serve(dup_fd_closed_later, Context, Info) ->
    {Client, Server} = tcp([]),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = gen_tcp:close(Server),
    ok = py_reactor_context:handoff(Context, Duplicate, Info),
    Client;
serve(port, Context, Info) ->
    {Client, Server} = tcp([]),
    ok = py_reactor_context:handoff(Context, Server, Info),
    undefined = erlang:port_info(Server),
    Client;
serve(unix_fd_of_port, Context, Info) ->
    {Client, Server} = unix(),
    {ok, Fd} = inet:getfd(Server),
    ok = py_reactor_context:handoff(Context, Fd, Info),
    Client;
serve(unix_dup_fd, Context, Info) ->
    {Client, Server} = unix(),
    {ok, Fd} = inet:getfd(Server),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(Context, Duplicate, Info),
    ok = gen_tcp:close(Server),
    Client;
serve(unix_port, Context, Info) ->
    {Client, Server} = unix(),
    ok = py_reactor_context:handoff(Context, Server, Info),
    Client;
serve(inet_backend, Context, Info) ->
    {Client, Server} = tcp([{inet_backend, socket}]),
    ok = py_reactor_context:handoff(Context, Server, Info),
    Client;
serve(socket, Context, Info) ->
    {Client, Server} = of_socket(inet),
    ok = py_reactor_context:handoff(Context, Server, Info),
    Client;
serve(unix_socket, Context, Info) ->
    {Client, Server} = of_socket(local),
    ok = py_reactor_context:handoff(Context, Server, Info),
    Client;
serve(dup_fd_of_socket, Context, Info) ->
    {Client, Server} = of_socket(inet),
    {ok, Fd} = socket:getopt(Server, {otp, fd}),
    {ok, Duplicate} = py:dup_fd(Fd),
    ok = py_reactor_context:handoff(Context, Duplicate, Info),
    %% This makes the connection blocking, for the duplicate as well.
    ok = socket:close(Server),
    Client;
serve(adopted_by_listener, Context, _Info) ->
    Name = {?MODULE, Context},
    Port =
        case py_reactor:listeners() of
            #{Name := #{port := Running}} ->
                Running;
            _NotYet ->
                {ok, _} = py_reactor:start_listener(Name, #{contexts => [Context]}),
                maps:get(port, maps:get(Name, py_reactor:listeners()))
        end,
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    Client.

%% inet_backend has to be the first option.
tcp(Backend) ->
    Options = [binary, {active, false}],
    {ok, Listen} = gen_tcp:listen(0, Backend ++ [{ip, {127, 0, 0, 1}} | Options]),
    {ok, Port} = inet:port(Listen),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, Options),
    {ok, Server} = gen_tcp:accept(Listen),
    ok = gen_tcp:close(Listen),
    {Client, Server}.

unix() ->
    reactor_test:pair([{transport, unix}]).

of_socket(Domain) ->
    {ok, Listen} = socket:open(Domain, stream, default),
    ok = socket:bind(Listen, address(Domain)),
    ok = socket:listen(Listen),
    {ok, Name} = socket:sockname(Listen),
    {Address, Port} = connect_to(Name),
    {ok, Client} = gen_tcp:connect(Address, Port, [binary, {active, false}]),
    {ok, Server} = socket:accept(Listen),
    ok = socket:close(Listen),
    _ = [file:delete(Path) || {local, Path} <- [Address]],
    {Client, Server}.

address(inet) ->
    #{family => inet, addr => {127, 0, 0, 1}, port => 0};
address(local) ->
    Name = "py_reactor_" ++ os:getpid() ++ "_" ++ integer_to_list(reactor_test:new_id()),
    #{family => local, path => filename:join("/tmp", Name)}.

connect_to(#{family := inet, addr := Ip, port := Port}) ->
    {Ip, Port};
connect_to(#{family := local, path := Path}) ->
    {{local, Path}, 0}.
