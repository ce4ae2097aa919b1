%% What cannot be served or started is a clear error, and nothing else notices.
-module(refusals_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, serving/4, client/2, send/2, expect/2, expect_eof/1, new_id/0, options/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        bad_descriptors,
        closed_descriptors,
        unsupported_descriptor,
        listening_sockets,
        active_sockets,
        closed_sockets,
        already_handed_off,
        contexts_that_are_not_there,
        max_connections,
        max_connections_at_a_listener,
        wrong_options,
        wrong_listener_options,
        contexts_of_other_nodes,
        no_descriptor_to_be_had,
        no_thread_to_be_had,
        wrong_modes_and_numbers,
        setup_code_that_raises,
        setup_code_that_exits,
        modules_that_do_not_import,
        number_in_use,
        application_environment
    ]).

info() ->
    #{addr => <<"127.0.0.1">>, port => 1, type => tcp}.

handoff(Context, Source) ->
    py_reactor_context:handoff(Context, Source, info()).

%% With a context and a connection in it that must not notice anything.
beside(Config, Fun) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Neighbour, _} = client(Context, Config),
        send(Neighbour, <<"1">>),
        expect(Neighbour, <<"1">>),
        Before = os_resources:snapshot(),
        Fun(Context),
        os_resources:wait_back_to(Before),
        send(Neighbour, <<"2">>),
        expect(Neighbour, <<"2">>),
        ?assertMatch(#{connections := 1}, py_reactor_context:stats(Context))
    end).

bad_descriptors(Config) ->
    beside(Config, fun(Context) ->
        [
            ?assertEqual({error, {bad_fd, Fd}}, handoff(Context, Fd))
         || Fd <- [-1, -1000, 1000000, 1 bsl 31, 1 bsl 32, (1 bsl 32) + 1, 1 bsl 62, 1 bsl 100, -(1 bsl 100)]
        ],
        [
            ?assertMatch({error, {bad_socket, Source, _}}, handoff(Context, Source))
         || Source <- [fd, <<"5">>, "5", 5.0, self(), {}, #{}, undefined]
        ],
        [?assertEqual({error, {bad_fd, Fd}}, py:dup_fd(Fd)) || Fd <- [-1, 1000000, 1 bsl 32, 1 bsl 100, fd, "5"]]
    end).

closed_descriptors(Config) ->
    beside(Config, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        ok = py_nif:close_fd(Duplicate),
        ?assertEqual({error, {bad_fd, Duplicate}}, handoff(Context, Duplicate)),
        ?assertEqual({error, {bad_fd, Duplicate}}, py:dup_fd(Duplicate)),
        ?assertEqual({error, {bad_fd, Duplicate}}, py_nif:close_fd(Duplicate)),
        %% Only numbers that dup_fd gave are closed.
        ?assertEqual({error, {bad_fd, Fd}}, py_nif:close_fd(Fd)),
        ok = gen_tcp:send(Server, <<"open">>),
        expect(Client, <<"open">>),
        gen_tcp:close(Server),
        gen_tcp:close(Client)
    end).

unsupported_descriptor(Config) ->
    beside(Config, fun(Context) ->
        [
            begin
                {ok, Fd} = py:call(Context, os, open, [Path, Flags]),
                ?assertEqual({error, {unsupported_descriptor, Kind}}, handoff(Context, Fd)),
                %% It is still the caller's. A duplicate from dup_fd is not.
                {ok, Duplicate} = py:dup_fd(Fd),
                ?assertEqual({error, {unsupported_descriptor, Kind}}, handoff(Context, Duplicate)),
                ?assertEqual({error, {bad_fd, Duplicate}}, py:dup_fd(Duplicate)),
                {ok, none} = py:call(Context, os, close, [Fd])
            end
         || {Path, Flags, Kind} <- [
                {list_to_binary(code:which(?MODULE)), 0, regular_file},
                {<<"/tmp">>, 0, directory},
                {<<"/dev/null">>, 2, character_device}
            ]
        ]
    end).

%% It is a stream socket, but no connection: it must not become one, nor stop listening.
listening_sockets(Config) ->
    beside(Config, fun(Context) ->
        {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
        {ok, Port} = inet:port(Listen),
        ?assertEqual({error, {unsupported_descriptor, listening_socket}}, handoff(Context, Listen)),
        {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, []),
        {ok, Server} = gen_tcp:accept(Listen, 30000),
        [gen_tcp:close(S) || S <- [Client, Server, Listen]]
    end).

active_sockets(Config) ->
    beside(Config, fun(Context) ->
        [
            begin
                {Client, Server} = reactor_test:pair(Config),
                ok = inet:setopts(Server, [{active, Active}]),
                {ok, Fd} = inet:getfd(Server),
                ?assertMatch({error, {active_socket, <<_/binary>>}}, handoff(Context, Server)),
                ?assertMatch({error, {active_socket, <<_/binary>>}}, handoff(Context, Fd)),
                send(Client, <<"to Erlang">>),
                receive
                    {tcp, Server, <<"to Erlang">>} -> ok
                end,
                [gen_tcp:close(S) || S <- [Client, Server]]
            end
         || Active <- [true, once, 5]
        ]
    end).

closed_sockets(Config) ->
    beside(Config, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        gen_tcp:close(Server),
        ?assertMatch({error, {bad_socket, Server, _}}, handoff(Context, Server)),
        gen_tcp:close(Client),
        {ok, Socket} = socket:open(inet, stream, default),
        ok = socket:close(Socket),
        ?assertMatch({error, {bad_socket, Socket, _}}, handoff(Context, Socket))
    end).

already_handed_off(Config) ->
    beside(Config, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, First} = py:dup_fd(Fd),
        {ok, Second} = py:dup_fd(Fd),
        ok = handoff(Context, First),
        ?assertEqual({error, {already_handed_off, First}}, handoff(Context, First)),
        ?assertEqual({error, {already_handed_off, Second}}, handoff(Context, Second)),
        ?assertEqual({error, {already_handed_off, Fd}}, handoff(Context, Fd)),
        with_context(Config, #{}, fun(Other) ->
            ?assertEqual({error, {already_handed_off, Fd}}, handoff(Other, Fd))
        end),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        gen_tcp:close(Server),
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 1)
    end).

contexts_that_are_not_there(Config) ->
    {Client, Server} = reactor_test:pair(Config),
    Id = new_id(),
    {ok, Pid} = py_reactor_context:start_link(Id, reactor_test:mode(Config), options(Config, #{})),
    ok = py_reactor_context:stop(Pid),
    ?assertEqual({error, stopped}, handoff(Pid, Server)),
    ?assertEqual({error, {no_context, Id}}, handoff(Id, Server)),
    ?assertEqual({error, {no_context, self()}}, handoff(self(), Server)),
    ?assertEqual({error, {no_context, nowhere}}, handoff(nowhere, Server)),
    ?assertMatch({error, _}, py_reactor_context:stats(Pid)),
    ?assertMatch({error, {no_context, _}}, py_reactor_context:stop(Pid)),
    ?assertMatch({error, _}, py:eval(Pid, "1")),
    ?assertEqual({error, {no_context, Id}}, py:eval(Id, "1")),
    %% The socket is still ours.
    ok = gen_tcp:send(Server, <<"mine">>),
    expect(Client, <<"mine">>).

max_connections(Config) ->
    serving(Config, "streams.Echo", #{max_connections => 2}, fun(Context) ->
        {First, _} = client(Context, Config),
        {Second, _} = client(Context, Config),
        Before = os_resources:snapshot(),
        [
            begin
                {Client, Server} = reactor_test:pair(Config),
                ?assertEqual({error, {max_connections, 2}}, handoff(Context, source(How, Server))),
                %% Its client knows, even while Erlang still has the original.
                expect_eof(Client),
                gen_tcp:close(Client),
                gen_tcp:close(Server)
            end
         || How <- [port, fd, duplicate]
        ],
        os_resources:wait_back_to(Before),
        ?assertMatch(#{connections := 2, refused := 3, accepted := 2}, py_reactor_context:stats(Context)),
        [begin send(C, <<"x">>), expect(C, <<"x">>) end || C <- [First, Second]],
        gen_tcp:close(First),
        reactor_test:wait_connections(Context, 1),
        {Third, _} = client(Context, Config),
        send(Third, <<"x">>),
        expect(Third, <<"x">>)
    end).

source(port, Socket) ->
    Socket;
source(fd, Socket) ->
    {ok, Fd} = inet:getfd(Socket),
    Fd;
source(duplicate, Socket) ->
    {ok, Duplicate} = py:dup_fd(source(fd, Socket)),
    Duplicate.

max_connections_at_a_listener(Config) ->
    serving(Config, "streams.Echo", #{max_connections => 3}, fun(Context) ->
        {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => [Context]}),
        #{?MODULE := #{port := Port}} = py_reactor:listeners(),
        Connect = fun() ->
            {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
            Client
        end,
        Served = [Connect() || _ <- lists:seq(1, 3)],
        reactor_test:wait_connections(Context, 3),
        Refused = [Connect() || _ <- lists:seq(1, 20)],
        [expect_eof(Client) || Client <- Refused],
        reactor_test:wait_equal(20, fun() -> maps:get(refused, py_reactor_context:stats(Context)) end),
        [begin send(C, <<"x">>), expect(C, <<"x">>) end || C <- Served],
        gen_tcp:close(hd(Served)),
        reactor_test:wait_connections(Context, 2),
        Again = Connect(),
        send(Again, <<"x">>),
        expect(Again, <<"x">>),
        ok = py_reactor:stop_listener(?MODULE)
    end).

wrong_options(Config) ->
    [
        ?assertMatch(
            {error, {bad_option, Key, Value, Why}} when is_binary(Why),
            py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{Key => Value}))
        )
     || {Key, Values} <- [
            {backend, [kqueue, "epoll", 1]},
            {setup_code, [atom, 5, <<255>>, [<<"x">>, bad], <<"a\0b">>]},
            {python_path, ["/tmp", <<"/tmp">>, atom, [5], [<<255>>], [["a", 0]]]},
            {env, [
                text,
                5,
                ["A=1"],
                [{"A", 1}],
                [{"A", "1"} | more],
                #{"" => "1"},
                #{"A=B" => "1"},
                #{"A" => "b\0c"},
                #{"A\0" => "b"},
                #{"A" => true},
                #{a => "1"},
                #{<<255>> => "1"}
            ]},
            {max_connections, [0, -1, 1.0, infinity, <<"5">>, 1 bsl 70]},
            {write_high_bytes, [0, -1, 2.0, all]},
            {write_low_bytes, [-1, 1.0, 262145]},
            {linger_ms, [-1, infinity, 1.5]},
            {linger_bytes, [-1, infinity]},
            {buffers, [0, 15, 17, 1000, 65536, -16, 16.0]},
            {buffer_bytes, [0, 1023, 1048577, large]},
            {drain_ms, [-1, infinity]},
            {start_timeout_ms, [0, -1, never]},
            {no_such_option, [1]},
            {"backend", [epoll]}
        ],
        Value <- Values
    ],
    [
        ?assertMatch({error, {bad_option, options, Wrong, _}}, py_reactor_context:start_link(new_id(), worker, Wrong))
     || Wrong <- [[], [{backend, auto}], none]
    ],
    [
        ?assertMatch({error, {bad_option, count, Wrong, _}}, py:start_contexts(#{count => Wrong}))
     || Wrong <- [0, -1, many, 1.0]
    ].

wrong_listener_options(_Config) ->
    [
        ?assertMatch({error, {bad_option, Key, Value, Why}} when is_binary(Why), py_reactor:start_listener(?MODULE, #{Key => Value}))
     || {Key, Value} <- [
            {port, -1},
            {port, 65536},
            {port, "80"},
            {ip, "localhost"},
            {ip, {127, 0, 0}},
            {contexts, []},
            {contexts, 1},
            {contexts, [0]},
            {contexts, [one]},
            {backlog, 0},
            {unknown, 1}
        ]
    ],
    ?assertEqual({error, {no_context, self()}}, py_reactor:start_listener(?MODULE, #{contexts => [self()]})),
    ?assertEqual({error, {no_listener, ?MODULE}}, py_reactor:stop_listener(?MODULE)),
    ?assertNot(maps:is_key(?MODULE, py_reactor:listeners())).

%% Most of what is asked of a context is asked on its node.
contexts_of_other_nodes(Config) ->
    case messages_SUITE:start_peer() of
        {ok, Peer, Node} ->
            {ok, Context} = erpc:call(Node, py_reactor, start_context, [1, reactor_test:mode(Config), options(Config, #{})]),
            {Client, Server} = reactor_test:pair(Config),
            [
                ?assertMatch({{error, {remote_context, Node, <<_, _/binary>>}}, _}, {Ask(), erlang:fun_info(Ask)})
             || Ask <- [
                    fun() -> py:exec(Context, "pass") end,
                    fun() -> py:eval(Context, "1") end,
                    fun() -> py:eval(Context, "x", #{x => 1}) end,
                    fun() -> py:call(Context, os, getpid, []) end,
                    fun() -> py:cast(Context, os, getpid, []) end,
                    fun() -> py_reactor_context:handoff(Context, Server, #{}) end,
                    fun() -> py_reactor_context:stats(Context) end,
                    fun() -> py_reactor_context:drain(Context, 1) end,
                    fun() -> py_reactor_context:interrupt(Context) end,
                    fun() -> py_reactor_context:stop(Context) end,
                    fun() -> py_reactor_context:stop(Context, 0) end,
                    fun() -> py_reactor:start_listener(?MODULE, #{contexts => [Context]}) end
                ]
            ],
            ?assertEqual([], py_reactor_context:connections(Context)),
            [gen_tcp:close(Socket) || Socket <- [Client, Server]],
            peer:stop(Peer);
        {skip, _} = Skip ->
            Skip
    end.

no_descriptor_to_be_had(Config) ->
    reactor_test:with_context(Config, #{setup_code => "import exhausted"}, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Modules} = application:get_key(py_reactor, modules),
        %% None could be loaded then.
        ok = code:ensure_modules_loaded(Modules),
        ok = py:exec("pass"),
        ok = py:exec(Context, "taken = exhausted.take_all()"),
        Answers = [
            py:dup_fd(Fd),
            py_reactor_context:handoff(Context, Fd, #{}),
            py_reactor:start_listener(?MODULE, #{contexts => [Context]}),
            py_reactor_context:start_link(reactor_test:new_id(), worker)
        ],
        ok = py:exec(Context, "taken.give_back()"),
        [
            begin
                {error, {resources, Why}} = Answer,
                ?assertMatch({match, _}, re:run(Why, "descriptor.*ulimit -n"))
            end
         || Answer <- Answers
        ],
        [gen_tcp:close(Socket) || Socket <- [Client, Server]]
    end).

%% In another VM, which has no address space left.
no_thread_to_be_had(_Config) ->
    Code =
        "{ok, _} = py_reactor:start_context(1, worker, #{}),"
        "ok = py:exec(1, \"import resource\nused = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))\"),"
        "Answer = py_reactor:start_context(2, worker, #{}),"
        "ok = py:exec(1, \"resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\"),"
        "io:format(\"~nanswer ~0p~n\", [Answer]), halt()",
    {Port, _} = interpreter_SUITE:vm([], Code, []),
    Answer = interpreter_SUITE:line(Port, "answer "),
    ?assertMatch({match, _}, re:run(Answer, "error,{resources,<<.no thread was to be had: .*ulimit")).

wrong_modes_and_numbers(Config) ->
    Options = options(Config, #{}),
    [
        ?assertMatch({error, {unsupported_mode, Mode, Why}} when is_binary(Why), py_reactor_context:start_link(new_id(), Mode, Options))
     || Mode <- [thread, "worker", <<"worker">>, 1]
    ],
    [
        ?assertMatch({error, {bad_id, Id, Why}} when is_binary(Why), py_reactor_context:start_link(Id, reactor_test:mode(Config), Options))
     || Id <- [0, -1, one, 1.0, "1"]
    ],
    ?assertError({context, 0, _}, py:context(0)),
    ?assertError({context, one, _}, py:context(one)).

%% The caller does not trap exits, and lives on to tell the tale.
refused_start(Config, SetupCode) ->
    Test = self(),
    Before = os_resources:snapshot(),
    Caller = spawn(fun() ->
        Id = new_id(),
        Result = py_reactor_context:start_link(Id, reactor_test:mode(Config), options(Config, #{setup_code => SetupCode})),
        Test ! {self(), Result, process_info(self(), links), erlang:process_info(self(), messages)},
        %% The number is free again.
        {ok, Pid} = py_reactor_context:start_link(Id, reactor_test:mode(Config), options(Config, #{})),
        ok = py_reactor_context:stop(Pid),
        Test ! {self(), fine}
    end),
    Monitor = monitor(process, Caller),
    receive
        {Caller, Result, Links, Messages} ->
            ?assertEqual({links, []}, Links),
            ?assertEqual({messages, []}, Messages),
            receive
                {Caller, fine} -> ok;
                {'DOWN', Monitor, process, Caller, Reason} -> error({caller_died, Reason})
            end,
            os_resources:wait_back_to(Before),
            Result;
        {'DOWN', Monitor, process, Caller, Reason} ->
            error({caller_died, Reason})
    end.

setup_code_that_raises(Config) ->
    {error, {setup_code, {python_error, #{type := Type, message := Message, traceback := Traceback}}}} =
        refused_start(Config, "def fail():\n    raise KeyError('missing')\n\nfail()\n"),
    ?assertEqual({<<"KeyError">>, <<"'missing'">>}, {Type, Message}),
    [
        ?assertNotEqual(nomatch, string:find(Traceback, Part))
     || Part <- ["Traceback (most recent call last)", "in fail", "line 4", "KeyError: 'missing'"]
    ],
    ?assertMatch(
        {error, {setup_code, {python_error, #{type := <<"SyntaxError">>}}}},
        refused_start(Config, "def fail(:\n")
    ).

setup_code_that_exits(Config) ->
    ?assertMatch({error, {setup_code, {python_error, #{type := <<"SystemExit">>}}}}, refused_start(Config, "import sys; sys.exit(3)")).

modules_that_do_not_import(Config) ->
    ?assertMatch(
        {error, {setup_code, {python_error, #{type := <<"ModuleNotFoundError">>}}}},
        refused_start(Config, "import no_such_module")
    ),
    with_context(Config, #{}, fun(Context) ->
        ?assertMatch({error, {python_error, #{type := <<"ModuleNotFoundError">>}}}, py:call(Context, no_such_module, f, [])),
        ?assertMatch({error, {python_error, #{type := <<"AttributeError">>}}}, py:call(Context, os, no_such_function, [])),
        ?assertMatch({error, {python_error, #{type := <<"TypeError">>}}}, py:call(Context, os, sep, [])),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

number_in_use(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        ?assertEqual({error, {already_started, Context}}, py_reactor_context:start_link(Id, reactor_test:mode(Config), options(Config, #{}))),
        ?assertEqual({error, {already_started, Context}}, py_reactor:start_context(Id, reactor_test:mode(Config), options(Config, #{}))),
        ?assertEqual({ok, 2}, py:eval(Id, "1 + 1"))
    end).

application_environment(Config) ->
    ok = application:set_env(py_reactor, max_connections, many),
    try
        ?assertMatch({error, {bad_option, max_connections, many, _}}, py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{}))),
        ok = application:set_env(py_reactor, max_conections, 1),
        {error, {bad_option, max_conections, 1, Why}} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{})),
        ?assertMatch({match, _}, re:run(Why, "environment \\(is max_connections meant\\?\\); known are .*max_connections")),
        ok = application:unset_env(py_reactor, max_conections),
        ok = application:set_env(py_reactor, max_connections, 1),
        serving(Config, "streams.Echo", fun(Context) ->
            {Client, _} = client(Context, Config),
            {_, Server} = reactor_test:pair(Config),
            ?assertEqual({error, {max_connections, 1}}, handoff(Context, Server)),
            gen_tcp:close(Client)
        end)
    after
        application:unset_env(py_reactor, max_conections),
        application:unset_env(py_reactor, max_connections)
    end.
