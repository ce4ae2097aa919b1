%% What Erlang wants of a connection: to look at it, to write to it, to close it.
-module(connections_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [
    serving/3, serving/4, client/3, send/2, expect/2, expect_eof/1, wait_event/3, wait_lost/2, wait_equal/2
]).
-import(mailed_test, [mailed/3, fd/2, connection/2, messages/2, call/3]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        connections_are_told,
        connections_of_nobody,
        send_writes,
        send_keeps_the_order,
        send_takes_all_or_nothing,
        a_refused_send_blocks_nobody,
        send_on_a_datagram_socket,
        close_delivers_first,
        what_is_no_connection,
        a_handle_names_one_connection,
        from_another_node
    ]).

connections_are_told(Config) ->
    Script = #{data_received => [{<<"abc">>, async_pending}, {<<>>, continue}]},
    mailed(Config, Script, fun(Context, Client, Tag, Fd) ->
        Before = connection(Context, Tag),
        ?assertMatch(
            #{fd := Fd, class := <<"mailed.Mailed">>, state := read, unread := 0, unsent := 0, write_buffer := 0, received := 0, sent := 0},
            Before
        ),
        ?assertMatch(#{client_info := #{<<"addr">> := <<"127.0.0.1">>, <<"port">> := 4711}}, Before),
        send(Client, <<"12345">>),
        expect(Client, <<"abc">>),
        send(Client, <<"67">>),
        wait_equal({async, 2, 7, 3}, fun() ->
            #{state := State, unread := Unread, received := Received, sent := Sent} = connection(Context, Tag),
            {State, Unread, Received, Sent}
        end),
        {ok, true} = py:call(Context, recorder, signal, [Tag])
    end).

connections_of_nobody(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        ?assertEqual([], py_reactor_context:connections(Context))
    end),
    ?assertEqual({error, {no_context, 99999999}}, py_reactor_context:connections(99999999)).

send_writes(Config) ->
    mailed(Config, #{}, fun(Context, Client, _Tag, Fd) ->
        ok = py_reactor_context:send(Context, Fd, [<<"he">>, "llo"]),
        expect(Client, <<"hello">>),
        ok = py_reactor_context:send(Context, Fd, <<>>),
        ?assertEqual({error, {bad_data, [foo]}}, py_reactor_context:send(Context, Fd, [foo]))
    end).

send_keeps_the_order(Config) ->
    Script = #{data_received => [{<<"p">>, continue}]},
    mailed(Config, Script, fun(Context, Client, _Tag, Fd) ->
        Numbers = [[integer_to_binary(N), $ ] || N <- lists:seq(1, 500)],
        [ok = py_reactor_context:send(Context, Fd, Number) || Number <- Numbers],
        expect(Client, Numbers),
        send(Client, <<"x">>),
        expect(Client, <<"p">>)
    end).

send_takes_all_or_nothing(Config) ->
    serving(Config, "mailed.Mailed", #{write_high_bytes => 1000, write_low_bytes => 100}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        wait_event(Context, Tag, <<"connection_made">>),
        Fd = fd(Context, Tag),
        ?assertEqual({error, {no_room, 1000}}, py_reactor_context:send(Context, Fd, binary:copy(<<"x">>, 1001))),
        ?assertMatch(#{unsent := 0, sent := 0}, connection(Context, Tag)),
        ok = py_reactor_context:send(Context, Fd, binary:copy(<<"y">>, 1000)),
        expect(Client, binary:copy(<<"y">>, 1000)),
        gen_tcp:close(Client),
        wait_lost(Context, Tag)
    end).

%% After a refusal with nothing under way, no event would ever say that there is room again.
a_refused_send_blocks_nobody(Config) ->
    Script = #{data_received => [{<<>>, write_pending}], write_ready => [{<<"still">>, read_pending}]},
    Options = #{write_high_bytes => 1000, write_low_bytes => 100},
    serving(Config, "mailed.Mailed", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => Script}),
        wait_event(Context, Tag, <<"connection_made">>),
        {error, {no_room, 1000}} = py_reactor_context:send(Context, fd(Context, Tag), binary:copy(<<"x">>, 1001)),
        send(Client, <<"go">>),
        expect(Client, <<"still">>),
        gen_tcp:close(Client),
        wait_lost(Context, Tag)
    end).

send_on_a_datagram_socket(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {ok, Udp} = gen_udp:open(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
        {ok, Port} = inet:port(Udp),
        Tag = reactor_test:tag(),
        ok = py_reactor_context:handoff(Context, Udp, #{tag => Tag}),
        wait_event(Context, Tag, <<"connection_made">>),
        Fd = fd(Context, Tag),
        ?assertEqual({error, {no_destination, Fd}}, py_reactor_context:send(Context, Fd, <<"hello">>)),
        {ok, Asker} = gen_udp:open(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
        ok = gen_udp:send(Asker, {127, 0, 0, 1}, Port, "x"),
        wait_event(Context, Tag, <<"data_received">>),
        ok = py_reactor_context:send(Context, Fd, <<"hello">>),
        ?assertMatch({ok, {_, Port, <<"hello">>}}, gen_udp:recv(Asker, 0, 30000)),
        ok = gen_udp:close(Asker),
        ok = py_reactor_context:close(Context, Fd),
        wait_lost(Context, Tag)
    end).

close_delivers_first(Config) ->
    mailed(Config, #{}, fun(Context, Client, Tag, Fd) ->
        Data = binary:copy(<<"z">>, 200000),
        ok = py_reactor_context:send(Context, Fd, Data),
        ok = py_reactor_context:close(Context, Fd),
        ?assertEqual(Data, reactor_test:receive_all(Client)),
        wait_lost(Context, Tag),
        ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:close(Context, Fd))
    end).

what_is_no_connection(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        Ways = [
            fun(Connection) -> py_reactor_context:send(Context, Connection, <<"x">>) end,
            fun(Connection) -> py_reactor_context:close(Context, Connection) end,
            fun(Connection) -> py_reactor_context:notify(Context, Connection, x) end
        ],
        [
            begin
                ?assertEqual({error, {no_connection, 0}}, Way(0)),
                ?assertEqual({error, {no_connection, -1}}, Way(1 bsl 40)),
                ?assertEqual({error, {bad_connection, foo}}, Way(foo)),
                ?assertEqual({error, {bad_connection, -1}}, Way(-1)),
                ?assertEqual({error, {bad_connection, {1, 2, -3}}}, Way({1, 2, -3}))
            end
         || Way <- Ways
        ]
    end).

%% The number may be used again; the handle is not.
a_handle_names_one_connection(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        wait_event(Context, Tag, <<"connection_made">>),
        #{fd := Fd, connection := Handle} = connection(Context, Tag),
        ?assertEqual(Handle, call(Context, handle, [Tag])),
        ok = py_reactor_context:send(Context, Handle, <<"one">>),
        expect(Client, <<"one">>),
        ?assert(call(Context, notify, [Handle, 1])),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0),
        {Next, NextTag} = client_at(Context, Config, Fd, 100),
        ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:send(Context, Handle, <<"two">>)),
        ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:notify(Context, Handle, two)),
        ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:close(Context, Handle)),
        ?assertNot(call(Context, notify, [Handle, 2])),
        ok = py_reactor_context:send(Context, Fd, <<"three">>),
        expect(Next, <<"three">>),
        gen_tcp:close(Next),
        wait_lost(Context, NextTag)
    end).

%% A connection that is served on that very number.
client_at(_Context, _Config, Fd, 0) ->
    error({never_used_again, Fd});
client_at(Context, Config, Fd, Tries) ->
    {Client, Tag} = client(Context, Config, #{}),
    wait_event(Context, Tag, <<"connection_made">>),
    case fd(Context, Tag) of
        Fd ->
            {Client, Tag};
        _Other ->
            Found = client_at(Context, Config, Fd, Tries - 1),
            gen_tcp:close(Client),
            Found
    end.

from_another_node(Config) ->
    case messages_SUITE:start_peer() of
        {ok, Peer, Node} ->
            mailed(Config, #{}, fun(Context, Client, Tag, Fd) ->
                Remote = fun(Function, Args) -> erpc:call(Node, py_reactor_context, Function, [Context | Args]) end,
                ?assertMatch([#{fd := Fd}], Remote(connections, [])),
                ok = Remote(send, [Fd, <<"far">>]),
                expect(Client, <<"far">>),
                ok = Remote(notify, [Fd, far]),
                ?assertEqual([<<"far">>], messages(Context, Tag)),
                ok = Remote(close, [Fd]),
                expect_eof(Client)
            end),
            peer:stop(Peer);
        {skip, _} = Skip ->
            Skip
    end.
