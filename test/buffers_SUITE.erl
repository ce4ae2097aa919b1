%% ReactorBuffer on data that was really received: what it can do, how long it may be kept, and what keeping costs.
-module(buffers_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, serving/4, client/2, send/2, expect/2, wait_equal/2, wait_lost/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        operations_of_the_document,
        answers_as_bytes_do,
        library_functions,
        it_is_read_only,
        a_buffer_per_message,
        kept_after_the_callback,
        kept_after_the_connection,
        views_keep_the_memory,
        hoarding_more_than_the_pool,
        hoarding_with_the_smallest_pool,
        released_on_another_thread,
        released_by_the_collector,
        released_out_of_order_while_data_flows
    ], [
        kept_after_the_context
    ]).

%% Whatever a test kept would be kept for the next one.
end_per_testcase(_Case, Config) ->
    reactor_test:with_context(Config, #{}, fun(Context) -> {ok, none} = py:call(Context, hoards, release_all, []) end).

lent(Context) ->
    maps:get(buffers_lent, py_reactor_context:stats(Context)).

wait_returned(Context) ->
    wait_equal(0, fun() ->
        %% An idle thread counts once it goes round.
        {ok, none} = py:eval(Context, "None"),
        lent(Context)
    end).

%% Sends Data in one piece to a protocol that runs the named check on it, and expects its verdict.
checked(Config, Check, Data) ->
    serving(Config, "buffers.Checks", #{buffer_bytes => 65536}, fun(Context) ->
        {ok, none} = py:call(Context, buffers, set_check, [Check, byte_size(Data)]),
        {Client, _} = client(Context, Config),
        send(Client, Data),
        ?assertEqual(<<"ok">>, reactor_test:receive_all(Client)),
        wait_returned(Context)
    end).

request() ->
    <<"GET /index.html?x=1 HTTP/1.1\r\nHost: example.org\r\nContent-Length: 12\r\n\r\n\x00\x01\xfe\xff 42">>.

operations_of_the_document(Config) ->
    checked(Config, operations_of_the_document, <<"GET /a/b HTTP/1.0\r\n\r\n">>).

answers_as_bytes_do(Config) ->
    checked(Config, answers_as_bytes_do, request()).

library_functions(Config) ->
    checked(Config, library_functions, request()).

it_is_read_only(Config) ->
    checked(Config, it_is_read_only, request()).

a_buffer_per_message(Config) ->
    serving(Config, "streams.EchoByHand", fun(Context) ->
        {Client, _} = client(Context, Config),
        Data = crypto:strong_rand_bytes(100),
        [
            begin
                send(Client, Data),
                expect(Client, Data)
            end
         || _ <- lists:seq(1, 5000)
        ],
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        wait_returned(Context),
        ?assertMatch(#{messages := 5000, buffers_copied := 0}, py_reactor_context:stats(Context)),
        wait_equal(1024, fun() -> maps:get(buffers_free, py_reactor_context:stats(Context)) end)
    end).

%% Sends Count messages, each answered, so that each is a buffer of its own.
hoard(Client, Count) ->
    [
        begin
            send(Client, <<N:32, (crypto:strong_rand_bytes(996))/binary>>),
            expect(Client, <<"kept">>)
        end
     || N <- lists:seq(1, Count)
    ].

kept_after_the_callback(Config) ->
    serving(Config, "hoards.Hoards", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, 100),
        wait_equal(100, fun() -> lent(Context) end),
        ?assertEqual({ok, 100}, py:call(Context, hoards, count_unchanged, [Tag])),
        %% Other data comes and goes meanwhile.
        {Other, OtherTag} = client(Context, Config),
        hoard(Other, 300),
        {ok, none} = py:call(Context, hoards, release, [OtherTag]),
        ?assertEqual({ok, 100}, py:call(Context, hoards, count_unchanged, [Tag])),
        {ok, none} = py:call(Context, hoards, release, [Tag]),
        wait_returned(Context)
    end).

kept_after_the_connection(Config) ->
    serving(Config, "hoards.Hoards", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, 50),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0),
        {Other, OtherTag} = client(Context, Config),
        hoard(Other, 200),
        ?assertEqual({ok, 50}, py:call(Context, hoards, count_unchanged, [Tag])),
        {ok, none} = py:call(Context, hoards, release, [Tag]),
        {ok, none} = py:call(Context, hoards, release, [OtherTag]),
        wait_returned(Context)
    end).

kept_after_the_context(Config) ->
    Tag = serving(Config, "hoards.Hoards", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, 200),
        Tag
    end),
    serving(Config, "hoards.Hoards", fun(Context) ->
        {Client, OtherTag} = client(Context, Config),
        hoard(Client, 200),
        ?assertEqual({ok, 200}, py:call(Context, hoards, count_unchanged, [Tag])),
        {ok, none} = py:call(Context, hoards, release, [Tag]),
        ?assertEqual({ok, 200}, py:call(Context, hoards, count_unchanged, [OtherTag])),
        {ok, none} = py:call(Context, hoards, release, [OtherTag]),
        wait_returned(Context)
    end).

%% The buffers are gone, the views are not.
views_keep_the_memory(Config) ->
    serving(Config, "hoards.HoardsViews", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, 100),
        {ok, _} = py:call(Context, gc, collect, []),
        wait_equal(100, fun() -> lent(Context) end),
        {Other, OtherTag} = client(Context, Config),
        hoard(Other, 300),
        ?assertEqual({ok, 100}, py:call(Context, hoards, count_unchanged, [Tag])),
        {ok, none} = py:call(Context, hoards, release, [OtherTag]),
        {ok, none} = py:call(Context, hoards, release, [Tag]),
        wait_returned(Context)
    end).

%% Data beyond what may be lent is copied: nobody waits for a hoarder.
hoarding_more_than_the_pool(Config) ->
    hoarding(Config, #{}, 2000, 1024).

hoarding_with_the_smallest_pool(Config) ->
    hoarding(Config, #{buffers => 16, buffer_bytes => 1024}, 500, 16).

hoarding(Config, Options, Count, Buffers) ->
    serving(Config, "hoards.Hoards", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, Count),
        #{buffers_copied := Copied, messages := Messages} = py_reactor_context:stats(Context),
        ?assert(Copied > Messages - Buffers),
        ?assert(Copied < Messages),
        wait_equal(Messages - Copied, fun() -> lent(Context) end),
        ?assertEqual({ok, Messages}, py:call(Context, hoards, count_unchanged, [Tag])),
        %% Others are served, in whatever pieces.
        Others = [element(1, client(Context, Config)) || _ <- lists:seq(1, 50)],
        [hoard(Other, 2) || Other <- Others],
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        ?assertEqual({ok, Messages}, py:call(Context, hoards, count_unchanged, [Tag])),
        {ok, none} = py:call(Context, hoards, release_all, []),
        wait_returned(Context),
        %% And lent again.
        #{buffers_copied := Before} = py_reactor_context:stats(Context),
        {Again, _} = client(Context, Config),
        hoard(Again, 1),
        ?assertEqual(Before, maps:get(buffers_copied, py_reactor_context:stats(Context)))
    end).

released_on_another_thread(Config) ->
    serving(Config, "hoards.Hoards", #{buffers => 64}, fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config),
                hoard(Client, 100),
                {ok, none} = py:call(Context, hoards, release_on_threads, [Tag]),
                wait_returned(Context)
            end
         || _ <- lists:seq(1, 10)
        ]
    end).

released_by_the_collector(Config) ->
    serving(Config, "hoards.HoardsInCycles", #{buffers => 64}, fun(Context) ->
        {Client, Tag} = client(Context, Config),
        hoard(Client, 20),
        {ok, none} = py:call(Context, hoards, release, [Tag]),
        {ok, _} = py:call(Context, gc, collect, []),
        wait_returned(Context)
    end).

%% With the smaller pool, there is none to receive into for those whose turn it is.
released_out_of_order_while_data_flows(Config) ->
    [released_out_of_order(Config, Buffers) || Buffers <- [32, 16]].

released_out_of_order(Config, Buffers) ->
    serving(Config, "hoards.ReleasesAtRandom", #{buffers => Buffers, buffer_bytes => 1024}, fun(Context) ->
        Clients = [element(1, client(Context, Config)) || _ <- lists:seq(1, 8)],
        [spawn_link(fun() -> ok = gen_tcp:send(Client, binary:copy(<<N>>, 500000)) end) || {N, Client} <- lists:zip(lists:seq(1, 8), Clients)],
        [expect(Client, <<"all of it, unchanged">>) || Client <- Clients],
        {ok, none} = py:call(Context, hoards, release_all, []),
        wait_returned(Context)
    end).
