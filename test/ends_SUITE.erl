%% The end of a peer is heard in every state, and one that has only stopped sending is not taken for dead.
-module(ends_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/2, client/3, client/4, send/2, expect/2, expect_eof/1, events/2, wait_event/3, wait_lost/2, wait_equal/2, wait_until/1]).

-define(SMALL, [{sndbuf, 8192}, {recbuf, 8192}]).
%% What waits for a protocol before receiving stops, and what certainly fits behind it.
-define(INBOX, 65536).
-define(MORE, 80000).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:transport_groups([
        gone_after_a_half_close_and_continue,
        gone_after_a_half_close_and_async,
        gone_after_a_half_close_in_write_mode,
        gone_behind_a_full_inbox,
        fin_in_async_mode,
        fin_behind_a_full_inbox,
        half_closed_is_not_dead,
        gone_while_the_last_output_is_flushed,
        many_at_once
    ] ++ [Case || Case <- [lost_by_the_kernel, watched_no_more], os:getenv("PY_REACTOR_FAULTS") =/= false]).

scripted(Eof) ->
    #{script => #{data_received => [{<<"w">>, continue}], eof_received => [{<<>>, Eof}]}}.

half_closed(Context, Config, Eof) ->
    {Client, Tag} = client(Context, Config, scripted(Eof)),
    send(Client, <<"x">>),
    expect(Client, <<"w">>),
    ok = gen_tcp:shutdown(Client, write),
    wait_event(Context, Tag, <<"eof_received">>),
    {Client, Tag}.

connection(Context) ->
    [Connection] = py_reactor_context:connections(Context),
    Connection.

monitor_it(Context) ->
    #{connection := Handle} = connection(Context),
    py_reactor_context:monitor_connection(Context, Handle).

gone(Context, Client, Tag) ->
    Monitor = monitor_it(Context),
    reactor_test:reset(Client),
    wait_lost(Context, Tag),
    receive
        {py_connection_down, Monitor, _, Reason} -> ?assertEqual(reset, Reason)
    end,
    reactor_test:wait_connections(Context, 0).

gone_after_a_half_close_and_continue(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = half_closed(Context, Config, continue),
        gone(Context, Client, Tag)
    end).

gone_after_a_half_close_and_async(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = half_closed(Context, Config, async_pending),
        gone(Context, Client, Tag)
    end).

%% It waits for room that never comes.
gone_after_a_half_close_in_write_mode(Config) ->
    serving(Config, "closing.NeverGivesUp", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{answer => continue}, ?SMALL),
        send(Client, <<"x">>),
        ok = gen_tcp:shutdown(Client, write),
        wait_equal({ok, true}, fun() -> py:call(Context, closing, is_full, [Tag]) end),
        gone(Context, Client, Tag)
    end).

waits_with_a_full_inbox(Context, Config) ->
    {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<>>, async_pending}]}}),
    send(Client, <<"x">>),
    wait_event(Context, Tag, <<"data_received">>),
    Sender = spawn_link(fun() -> gen_tcp:send(Client, binary:copy(<<"y">>, ?MORE)) end),
    wait_until(fun() -> maps:get(unread, connection(Context)) >= ?INBOX end),
    {Client, Tag, Sender}.

gone_behind_a_full_inbox(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag, Sender} = waits_with_a_full_inbox(Context, Config),
        wait_equal(false, fun() -> is_process_alive(Sender) end),
        case proplists:get_value(transport, Config) of
            tcp ->
                gone(Context, Client, Tag);
            unix ->
                %% What a Unix peer sent before it closed is not lost.
                gen_tcp:close(Client),
                wait_equal(true, fun() -> maps:get(peer_closed, connection(Context)) end),
                release_all(Context, Tag, ?MORE + 1),
                wait_lost(Context, Tag)
        end
    end).

fin_in_async_mode(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<"w">>, async_pending}]}}),
        send(Client, <<"x">>),
        expect(Client, <<"w">>),
        ?assertEqual({ok, false}, py:call(Context, recorder, peer_closed, [Tag])),
        ?assertMatch(#{state := async, peer_closed := false}, connection(Context)),
        ok = gen_tcp:shutdown(Client, write),
        wait_equal({ok, true}, fun() -> py:call(Context, recorder, peer_closed, [Tag]) end),
        ?assertMatch(#{state := async, peer_closed := true}, connection(Context)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect_eof(Client),
        ?assert(lists:member(<<"eof_received">>, wait_lost(Context, Tag)))
    end).

fin_behind_a_full_inbox(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag, Sender} = waits_with_a_full_inbox(Context, Config),
        wait_equal(false, fun() -> is_process_alive(Sender) end),
        ok = gen_tcp:shutdown(Client, write),
        wait_equal({ok, true}, fun() -> py:call(Context, recorder, peer_closed, [Tag]) end),
        ?assertMatch(#{state := async, peer_closed := true}, connection(Context)),
        release_all(Context, Tag, ?MORE + 1),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

%% Each answer of data_received is "async_pending": one signal, one piece.
release_all(Context, Tag, Bytes) ->
    case iolist_size([Data || {<<"data_received">>, Data} <- events(Context, Tag)]) of
        Bytes ->
            {ok, _} = py:call(Context, recorder, signal, [Tag]);
        _ ->
            {ok, _} = py:call(Context, recorder, signal, [Tag]),
            release_all(Context, Tag, Bytes)
    end.

half_closed_is_not_dead(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = half_closed(Context, Config, continue),
        #{connection := Handle, peer_closed := true} = connection(Context),
        [
            begin
                ok = py_reactor_context:send(Context, Handle, <<"still here">>),
                expect(Client, <<"still here">>)
            end
         || _ <- lists:seq(1, 100)
        ],
        ?assertNot(lists:member(<<"connection_lost">>, reactor_test:methods(Context, Tag))),
        ok = py_reactor_context:close(Context, Handle),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

gone_while_the_last_output_is_flushed(Config) ->
    serving(Config, "closing.NeverGivesUp", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{answer => continue}, ?SMALL),
        send(Client, <<"x">>),
        ok = gen_tcp:shutdown(Client, write),
        wait_equal({ok, true}, fun() -> py:call(Context, closing, is_full, [Tag]) end),
        #{connection := Handle} = connection(Context),
        ok = py_reactor_context:close(Context, Handle),
        ?assertMatch(#{state := closing}, connection(Context)),
        reactor_test:reset(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0)
    end).

many_at_once(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        Clients = [client(Context, Config, scripted(continue)) || _ <- lists:seq(1, 200)],
        [ok = gen_tcp:shutdown(Client, write) || {Client, _} <- Clients],
        [wait_event(Context, Tag, <<"eof_received">>) || {_, Tag} <- Clients],
        [reactor_test:reset(Client) || {Client, _} <- Clients],
        [wait_lost(Context, Tag) || {_, Tag} <- Clients],
        reactor_test:wait_connections(Context, 0)
    end).

%% A kernel that has told nobody of the end (src/driver/faults.rs): whoever is quiet is looked at, once.
lost_by_the_kernel(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config),
                send(Client, <<"faults: lose the end">>),
                expect(Client, <<"faults: lose the end">>),
                End(Client),
                wait_lost(Context, Tag)
            end
         || End <- [fun gen_tcp:close/1, fun reactor_test:reset/1]
        ],
        reactor_test:wait_connections(Context, 0)
    end).

%% A kernel that has no room to listen for the end (src/driver/faults.rs): nobody would hear it, and so the connection ends.
watched_no_more(Config) ->
    ok = log_collector:install(),
    try
        watched_no_more_by_the_kernel(Config)
    after
        log_collector:remove()
    end.

watched_no_more_by_the_kernel(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Other, OtherTag} = client(Context, Config, #{script => #{data_received => [{<<>>, async_pending}]}}),
        [{Half, HalfTag}, {Full, FullTag}] = [client(Context, Config, #{script => #{data_received => [{<<>>, async_pending}]}}) || _ <- lists:seq(1, 2)],
        [send(Client, <<"faults: watch no more">>) || Client <- [Half, Full]],
        [wait_event(Context, Tag, <<"data_received">>) || Tag <- [HalfTag, FullTag]],
        ok = gen_tcp:shutdown(Half, write),
        send(Full, binary:copy(<<"x">>, 200000)),
        [
            begin
                wait_lost(Context, Tag),
                Why = "(lambda lost: (lost.close_reason, lost.close_errno))(__import__('recorder').protocol(tag))",
                ?assertEqual({ok, {<<"reset">>, 28}}, py:eval(Context, Why, #{tag => Tag})),
                {error, _, _} = log_collector:await(Id, ["fs.epoll.max_user_watches"])
            end
         || Tag <- [HalfTag, FullTag]
        ],
        gen_tcp:close(Other),
        wait_lost(Context, OtherTag),
        reactor_test:wait_connections(Context, 0)
    end).
