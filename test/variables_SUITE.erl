%% Each connection has context variables, and a decimal context, of its own: all its callbacks run in them, nothing else does.
-module(variables_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/2, send/2, expect/2, expect_eof/1, wait_event/3, wait_lost/2, wait_until/1]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        all_callbacks_run_in_them,
        connections_do_not_share_them,
        datagram_callbacks_run_in_them,
        they_begin_as_the_contexts,
        code_that_runs_in_contexts_of_its_own,
        an_exception_leaves_them
    ]).

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, variables, Function, Args),
    Value.

seen(Context, Tag) ->
    call(Context, seen, [Tag]).

%% In order: each sees what the one before has set, and one more digit.
chain(Methods) ->
    Before = [<<"nobody">> | Methods],
    [{M, B, 28 + N} || {M, B, N} <- lists:zip3(Methods, lists:droplast(Before), lists:seq(0, length(Methods) - 1))].

all_callbacks_run_in_them(Config) ->
    serving(Config, "variables.Sees", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"w">>),
        ok = py_reactor_context:notify(Context, maps:get(fd, mailed_test:connection(Context, Tag)), hello),
        ok = gen_tcp:shutdown(Client, write),
        expect_eof(Client),
        wait_lost(Context, Tag),
        Methods = [
            <<"factory">>, <<"connection_made">>, <<"data_received">>, <<"write_ready">>, <<"message_received">>,
            <<"eof_received">>, <<"connection_lost">>
        ],
        ?assertEqual(chain(Methods), seen(Context, Tag)),
        ?assertEqual([<<"nobody">>, 28], call(Context, outside, []))
    end).

connections_do_not_share_them(Config) ->
    serving(Config, "variables.Sees", fun(Context) ->
        Clients = [client(Context, Config) || _ <- lists:seq(1, 3)],
        [
            begin
                send(Client, <<"x">>),
                expect(Client, <<"w">>)
            end
         || {Client, _} <- Clients ++ Clients
        ],
        Round = [<<"data_received">>, <<"write_ready">>],
        Expected = chain([<<"factory">>, <<"connection_made">> | Round ++ Round]),
        [?assertEqual(Expected, seen(Context, Tag)) || {_, Tag} <- Clients]
    end).

datagram_callbacks_run_in_them(Config) ->
    serving(Config, "variables.Datagrams", fun(Context) ->
        Options = [binary, {active, false}, {ip, {127, 0, 0, 1}}],
        {ok, Socket} = gen_udp:open(0, Options),
        {ok, Port} = inet:port(Socket),
        Tag = reactor_test:tag(),
        {ok, Asker} = gen_udp:open(0, Options),
        {ok, AskerPort} = inet:port(Asker),
        ok = gen_udp:connect(Socket, {127, 0, 0, 1}, AskerPort),
        ok = py_reactor_context:handoff(Context, Socket, #{type => udp, tag => Tag}),
        ok = gen_udp:send(Asker, {127, 0, 0, 1}, Port, "x"),
        {ok, _} = gen_udp:recv(Asker, 0, 30000),
        gen_udp:close(Asker),
        %% Nobody is there any more: an error comes back.
        {ok, _} = py:eval(Context, <<"__import__('recorder').protocol(tag).write(b'anybody?')">>, #{tag => Tag}),
        wait_until(fun() -> length(seen(Context, Tag)) =:= 4 end),
        Methods = [<<"factory">>, <<"connection_made">>, <<"datagram_received">>, <<"error_received">>],
        ?assertEqual(chain(Methods), seen(Context, Tag))
    end).

they_begin_as_the_contexts(Config) ->
    serving(Config, "variables.Sees", fun(Context) ->
        none = call(Context, set_outside, [<<"somebody">>]),
        {_, Tag} = client(Context, Config),
        wait_event(Context, Tag, <<"connection_made">>),
        ?assertEqual([{<<"factory">>, <<"somebody">>, 28}, {<<"connection_made">>, <<"factory">>, 29}], seen(Context, Tag)),
        ?assertEqual([<<"somebody">>, 28], call(Context, outside, []))
    end).

code_that_runs_in_contexts_of_its_own(Config) ->
    serving(Config, "variables.Runs", fun(Context) ->
        {Client, _} = client(Context, Config),
        [
            begin
                send(Client, <<"x">>),
                expect(Client, <<"['outer', 'outer', 'outer', 'outer']">>)
            end
         || _ <- [1, 2]
        ]
    end).

an_exception_leaves_them(Config) ->
    serving(Config, "variables.Runs", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"raise">>),
        expect(Client, <<"['outer', 'outer', 'outer', 'outer']">>),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual([<<"nobody">>, 28], call(Context, outside, []))
    end).
