%% Messages to a connection, from Erlang and from its neighbours: message_received.
-module(notify_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [
    serving/3, client/3, send/2, expect/2, expect_eof/1, events/2, methods/2, wait_event/3, wait_lost/2, wait_until/1,
    wait_equal/2
]).
-import(mailed_test, [mailed/3, fd/2, connection/2, messages/2, call/3]).

all() ->
    [{group, Group} || Group <- reactor_test:backends() ++ [apart]].

groups() ->
    reactor_test:backend_groups([
        messages_are_delivered,
        messages_in_order,
        a_message_in_read_mode,
        a_message_in_write_mode_keeps_it,
        a_message_in_async_mode_keeps_it,
        a_message_ends_async_mode,
        a_message_that_signals,
        a_message_may_close,
        a_message_may_end_the_connection_itself,
        a_fault_in_message_received,
        a_message_that_cannot_be_converted,
        no_message_outside_the_connection,
        without_message_received,
        a_neighbour_is_told,
        a_thread_tells,
        an_object_is_passed_as_it_is,
        undelivered_objects_are_dropped,
        messages_are_bounded,
        chat,
        a_silent_member_is_closed
    ]) ++ [{apart, [], [interpreters_share_no_objects]}].

init_per_group(apart, Config) ->
    reactor_test:init_group(epoll, Config);
init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

messages_are_delivered(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, Fd) ->
        ok = py_reactor_context:notify(Context, Fd, hello),
        ok = py_reactor_context:notify(Context, Fd, {1, <<"two">>}),
        ?assertEqual([<<"hello">>, {1, <<"two">>}], messages(Context, Tag))
    end).

messages_in_order(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, Fd) ->
        Numbers = lists:seq(1, 1000),
        [ok = py_reactor_context:notify(Context, Fd, N) || N <- Numbers],
        ?assertEqual(Numbers, messages(Context, Tag))
    end).

a_message_in_read_mode(Config) ->
    Script = #{write_ready => [{<<"w">>, read_pending}], data_received => [{<<"d">>, continue}]},
    mailed(Config, Script, fun(Context, Client, _Tag, Fd) ->
        ok = py_reactor_context:notify(Context, Fd, {act, <<"m">>, write_pending}),
        expect(Client, <<"mw">>),
        send(Client, <<"x">>),
        expect(Client, <<"d">>)
    end).

%% In write mode with nothing to write to: the peer does not read.
a_message_in_write_mode_keeps_it(Config) ->
    Script = #{data_received => [{<<>>, write_pending}], write_ready => [{binary:copy(<<"w">>, 65536), continue}]},
    mailed(Config, Script, fun(Context, Client, Tag, Fd) ->
        send(Client, <<"go">>),
        wait_until(fun() -> length([W || W = <<"write_ready">> <- methods(Context, Tag)]) > 3 end),
        ok = py_reactor_context:notify(Context, Fd, {act, <<>>, continue}),
        ?assertMatch(#{state := write}, connection(Context, Tag)),
        %% And back to reading.
        ok = py_reactor_context:notify(Context, Fd, {act, <<>>, read_pending}),
        ?assertMatch(#{state := read}, connection(Context, Tag))
    end).

a_message_in_async_mode_keeps_it(Config) ->
    Script = #{data_received => [{<<>>, async_pending}], write_ready => [{<<"w">>, close}]},
    mailed(Config, Script, fun(Context, Client, Tag, Fd) ->
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        ok = py_reactor_context:notify(Context, Fd, {act, <<"m">>, continue}),
        ?assertMatch(#{state := async}, connection(Context, Tag)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect(Client, <<"mw">>)
    end).

a_message_ends_async_mode(Config) ->
    Script = #{data_received => [{<<>>, async_pending}], write_ready => [{<<"w">>, close}]},
    mailed(Config, Script, fun(Context, Client, Tag, Fd) ->
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        ok = py_reactor_context:notify(Context, Fd, {act, <<"m">>, write_pending}),
        expect(Client, <<"mw">>)
    end).

%% signal_write_ready from within message_received counts, whether it goes on waiting or begins to.
a_message_that_signals(Config) ->
    Script = #{data_received => [{<<>>, async_pending}], write_ready => [{<<"w">>, read_pending}]},
    mailed(Config, Script, fun(Context, Client, Tag, Fd) ->
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        ok = py_reactor_context:notify(Context, Fd, {signal, continue}),
        expect(Client, <<"w">>),
        ok = py_reactor_context:notify(Context, Fd, {signal, async_pending}),
        expect(Client, <<"w">>)
    end).

a_message_may_close(Config) ->
    mailed(Config, #{}, fun(Context, Client, Tag, Fd) ->
        ok = py_reactor_context:notify(Context, Fd, {act, <<"bye">>, close}),
        expect(Client, <<"bye">>),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual({error, {no_connection, Fd}}, py_reactor_context:notify(Context, Fd, more))
    end).

a_message_may_end_the_connection_itself(Config) ->
    mailed(Config, #{}, fun(Context, Client, Tag, Fd) ->
        ok = py_reactor_context:notify(Context, Fd, {'close me'}),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

a_fault_in_message_received(Config) ->
    with_log(fun() ->
        serving(Config, "mailed.Mailed", fun(Context) ->
            {Neighbour, NeighbourTag} = client(Context, Config, #{script => #{data_received => [{<<"!">>, continue}]}}),
            [
                begin
                    {Client, Tag} = client(Context, Config, #{}),
                    wait_event(Context, Tag, <<"connection_made">>),
                    ok = py_reactor_context:notify(Context, fd(Context, Tag), Message),
                    expect_eof(Client),
                    wait_lost(Context, Tag),
                    logged(Context, Text)
                end
             || {Message, Text} <- [
                    {{'raise', <<"oh no">>}, "RuntimeError: oh no"},
                    {{act, <<>>, nonsense}, "mailed.Mailed.message_received returned 'nonsense'; it must return one of"}
                ]
            ],
            send(Neighbour, <<"?">>),
            expect(Neighbour, <<"!">>),
            gen_tcp:close(Neighbour),
            wait_lost(Context, NeighbourTag)
        end)
    end).

a_message_that_cannot_be_converted(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, Fd) ->
        ?assertMatch({error, {unsupported_term, _}}, py_reactor_context:notify(Context, Fd, <<1:3>>)),
        ?assertEqual([], messages(Context, Tag))
    end).

%% Neither before connection_made has returned nor after connection_lost.
no_message_outside_the_connection(Config) ->
    serving(Config, "mailed.MadeWithMail", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        wait_event(Context, Tag, <<"message_received">>),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        %% What was left when it ended has had time to come.
        {ok, true} = py:eval(Context, "True"),
        {ok, true} = py:eval(Context, "True"),
        ?assertEqual(
            [{<<"connection_made">>, <<>>}, {<<"made">>, <<>>}, {<<"message_received">>, <<"early">>}],
            lists:sublist(events(Context, Tag), 3)
        ),
        ?assertEqual([<<"early">>], messages(Context, Tag)),
        wait_lost(Context, Tag)
    end).

without_message_received(Config) ->
    with_log(fun() ->
        serving(Config, "mailed.Deaf", fun(Context) ->
            Clients = [client(Context, Config, #{}) || _ <- lists:seq(1, 3)],
            [
                begin
                    wait_event(Context, Tag, <<"connection_made">>),
                    ok = py_reactor_context:notify(Context, fd(Context, Tag), hello),
                    send(Client, <<"x">>),
                    expect(Client, <<"x">>)
                end
             || {Client, Tag} <- Clients
            ],
            ok = py:exec(Context, "import erlang.reactor, mailed; erlang.reactor.set_protocol_factory(mailed.AlsoDeaf)"),
            {Other, OtherTag} = client(Context, Config, #{}),
            wait_event(Context, OtherTag, <<"connection_made">>),
            ok = py_reactor_context:notify(Context, fd(Context, OtherTag), hello),
            logged(Context, "mailed.Deaf does not define message_received(self, message)"),
            {_, Next, _} = logged(Context, "does not define message_received(self, message)"),
            ?assertNotEqual(nomatch, string:find(Next, "mailed.AlsoDeaf")),
            [gen_tcp:close(Client) || {Client, _} <- [{Other, OtherTag} | Clients]]
        end)
    end).

a_neighbour_is_told(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, Fd) ->
        {Neighbour, NeighbourTag} = client(Context, Config, #{}),
        wait_event(Context, NeighbourTag, <<"connection_made">>),
        ok = py_reactor_context:notify(Context, fd(Context, NeighbourTag), {tell, Fd, <<"psst">>}),
        wait_event(Context, Tag, <<"message_received">>),
        ?assertEqual([<<"psst">>], messages(Context, Tag)),
        %% Itself: after the callback that runs.
        ok = py_reactor_context:notify(Context, Fd, {tell, Fd, <<"note to self">>}),
        wait_until(fun() -> lists:member(<<"note to self">>, messages(Context, Tag)) end),
        Own = [Event || {Method, _} = Event <- events(Context, Tag), Method =/= <<"connection_made">>],
        ?assertMatch([_, _, {<<"told">>, true}, {<<"went on">>, <<>>}, {<<"message_received">>, <<"note to self">>}], Own),
        gen_tcp:close(Neighbour),
        wait_lost(Context, NeighbourTag)
    end).

a_thread_tells(Config) ->
    mailed(Config, #{}, fun(Context, Client, Tag, _Fd) ->
        ?assert(call(Context, tell_from_thread, [Tag, {act, <<"m">>, continue}])),
        expect(Client, <<"m">>),
        ?assertNot(call(Context, notify, [1000000, x])),
        ?assertMatch(<<"TypeError", _/binary>>, call(Context, notify, [<<"x">>, x]))
    end).

an_object_is_passed_as_it_is(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, _Fd) ->
        ?assert(call(Context, tell_an_object, [Tag])),
        wait_event(Context, Tag, <<"message_received">>),
        ?assertEqual([<<"object">>], messages(Context, Tag)),
        wait_equal(0, fun() -> call(Context, marked_left, []) end)
    end).

%% The connection ends, and the context with messages in its queue.
undelivered_objects_are_dropped(Config) ->
    serving(Config, "mailed.MadeWithMail", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        wait_event(Context, Tag, <<"connection_made">>),
        Code = "import mailed, recorder, erlang.reactor\n"
            "erlang.reactor.close_connection(recorder.protocol(tag).fd)\n"
            "for _ in range(1000): mailed.tell_an_object(tag)",
        ok = py:exec(Context, ["tag = '", Tag, "'\n", Code]),
        expect_eof(Client),
        wait_equal(0, fun() -> call(Context, marked_left, []) end),
        ?assertEqual([<<"early">>], messages(Context, Tag)),
        gen_tcp:close(Client)
    end),
    {ok, Killed} = py_reactor_context:start_link(
        reactor_test:new_id(), reactor_test:mode(Config),
        reactor_test:options(Config, #{setup_code => reactor_test:factory("mailed.Mailed")})
    ),
    {_Client, KilledTag} = client(Killed, Config, #{}),
    wait_event(Killed, KilledTag, <<"connection_made">>),
    ok = py:exec(Killed, ["import mailed\nfor _ in range(10000): mailed.tell_an_object('", KilledTag, "')"]),
    unlink(Killed),
    Monitor = monitor(process, Killed),
    exit(Killed, kill),
    receive
        {'DOWN', Monitor, process, Killed, killed} -> ok
    end.

messages_are_bounded(Config) ->
    mailed(Config, #{}, fun(Context, _Client, Tag, Fd) ->
        ?assertEqual(131072, call(Context, fill, [Tag])),
        %% Commands have a limit of their own.
        ok = py_reactor_context:notify(Context, Fd, last),
        wait_equal(131073, fun() -> call(Context, count_messages, [Tag]) end)
    end).

chat(Config) ->
    serving(Config, "mailed.Chat", fun(Context) ->
        Clients = [Client || {Client, _Tag} <- [client(Context, Config, #{}) || _ <- lists:seq(1, 20)]],
        wait_equal(20, fun() -> length(py_reactor_context:connections(Context)) end),
        Line = binary:copy(<<"0123456789">>, 1000),
        [send(hd(Clients), Line) || _ <- lists:seq(1, 50)],
        Expected = binary:copy(Line, 50),
        %% Nobody reads for a while: 500 kB wait for each, more than the marks allow.
        [expect(Client, Expected) || Client <- Clients],
        [gen_tcp:close(Client) || Client <- Clients]
    end).

%% Who does not read costs a bounded amount, and the others nothing.
a_silent_member_is_closed(Config) ->
    serving(Config, "mailed.Chat", fun(Context) ->
        {Silent, SilentTag} = client(Context, Config, #{}),
        {Talker, _} = client(Context, Config, #{}),
        Line = binary:copy(<<"x">>, 65536),
        wait_until(fun() ->
            send(Talker, Line),
            expect(Talker, Line),
            maps:get(state, connection(Context, SilentTag)) =:= closing
        end),
        {ok, Held} = py:eval(Context, <<"max(len(member.write_buffer) for member in __import__('mailed').Chat.members)">>),
        ?assert(Held =< 256 * 1024),
        [gen_tcp:close(Client) || Client <- [Silent, Talker]]
    end).

interpreters_share_no_objects(Config) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        serving([{mode, subinterp} | Config], "mailed.Mailed", fun(Other) ->
            {Client, Tag} = client(Context, Config, #{}),
            wait_event(Context, Tag, <<"connection_made">>),
            ?assertMatch(<<"RuntimeError: connection ", _/binary>>, call(Other, notify, [fd(Context, Tag), x])),
            ?assertEqual([], messages(Context, Tag)),
            gen_tcp:close(Client),
            wait_lost(Context, Tag)
        end)
    end).

with_log(Fun) ->
    ok = log_collector:install(),
    try
        Fun()
    after
        log_collector:remove(),
        log_collector:flush()
    end.

logged(Context, Text) ->
    {ok, Id} = py_reactor_table:id(Context),
    log_collector:await(Id, [Text]).
