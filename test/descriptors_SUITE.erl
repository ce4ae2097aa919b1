%% Every kind of descriptor that can be served: UDP, Unix datagrams, pipes, terminals. Streams have suites of their own.
-module(descriptors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, tag/0, events/2, wait_event/3, wait_lost/2, wait_equal/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        udp_keeps_bounds_and_answers_the_sender,
        udp_empty_both_ways,
        udp_by_write_buffer,
        udp_names_senders_and_destinations,
        udp_over_v6,
        udp_many_senders,
        udp_has_nobody_to_write_to,
        udp_refused_is_told_and_survived,
        udp_to_what_is_no_address,
        udp_to_port_0_is_told_and_survived,
        udp_survives_what_a_datagram_breaks,
        udp_is_counted_in_bytes,
        udp_too_long_is_dropped_and_logged,
        unix_datagrams,
        pipe_to_read,
        pipe_whose_writer_goes_while_its_protocol_waits,
        pipe_to_write,
        pipe_that_is_full,
        pipe_whose_reader_is_gone,
        pipe_whose_reader_goes_while_nothing_is_written,
        terminal_that_hangs_up_while_nothing_is_read,
        terminal
    ]).

%% A served UDP socket, and a client's: {Client, Address, Port, Tag}.
udp(Context, Options) ->
    Address = proplists:get_value(ip, Options, {127, 0, 0, 1}),
    Family = [inet6 || tuple_size(Address) =:= 8],
    {ok, Server} = gen_udp:open(0, Family ++ [binary, {active, false}, {ip, Address}]),
    {ok, Port} = inet:port(Server),
    {ok, Client} = gen_udp:open(0, Family ++ [binary, {active, false}, {ip, Address}]),
    Tag = tag(),
    ok = py_reactor_context:handoff(Context, Server, #{type => udp, tag => Tag}),
    {Client, Address, Port, Tag}.

ask({Client, Address, Port, _Tag}, Data) ->
    ok = gen_udp:send(Client, Address, Port, Data),
    {ok, {Address, Port, Answer}} = gen_udp:recv(Client, 0, 30000),
    Answer.

udp_keeps_bounds_and_answers_the_sender(Config) ->
    serving(Config, "kinds.Echo", fun(Context) ->
        {Client, Address, Port, Tag} = Udp = udp(Context, []),
        [ok = gen_udp:send(Client, Address, Port, Data) || Data <- [<<"one">>, <<>>, <<"three">>]],
        Answers = [element(3, element(2, gen_udp:recv(Client, 0, 30000))) || _ <- lists:seq(1, 3)],
        ?assertEqual([<<"echo one">>, <<"echo ">>, <<"echo three">>], Answers),
        %% An empty datagram was not the end of anything.
        ?assertEqual(<<"echo again">>, ask(Udp, <<"again">>)),
        %% Nor is a peer that goes away.
        gen_udp:close(Client),
        {ok, Other} = gen_udp:open(0, [binary, {active, false}]),
        ?assertEqual(<<"echo other">>, ask({Other, Address, Port, Tag}, <<"other">>)),
        ?assertMatch([{<<"connection_made">>, _}], events(Context, Tag))
    end).

%% An empty datagram counts for something, alone in either queue.
udp_empty_both_ways(Config) ->
    serving(Config, "kinds.Mirror", fun(Context) ->
        Udp = udp(Context, []),
        [?assertEqual(<<>>, ask(Udp, <<>>)) || _ <- lists:seq(1, 3)]
    end).

udp_by_write_buffer(Config) ->
    serving(Config, "kinds.Buffered", fun(Context) ->
        Udp = udp(Context, []),
        [?assertEqual(Data, ask(Udp, Data)) || Data <- [<<"a">>, binary:copy(<<"b">>, 5000), <<"c">>]]
    end).

udp_names_senders_and_destinations(Config) ->
    serving(Config, "kinds.Addressed", fun(Context) ->
        {Client, _, _, _} = Udp = udp(Context, []),
        {ok, Port} = inet:port(Client),
        Expected = iolist_to_binary(io_lib:format("('127.0.0.1', ~b) hello", [Port])),
        ?assertEqual(Expected, ask(Udp, <<"hello">>))
    end).

udp_over_v6(Config) ->
    serving(Config, "kinds.Addressed", fun(Context) ->
        {Client, _, _, _} = Udp = udp(Context, [{ip, {0, 0, 0, 0, 0, 0, 0, 1}}]),
        {ok, Port} = inet:port(Client),
        Expected = iolist_to_binary(io_lib:format("('::1', ~b, 0, 0) hello", [Port])),
        ?assertEqual(Expected, ask(Udp, <<"hello">>))
    end).

%% Loopback loses nothing as long as the queue holds it: one question at a time from each.
udp_many_senders(Config) ->
    serving(Config, "kinds.Echo", fun(Context) ->
        {_, Address, Port, Tag} = udp(Context, []),
        Clients = [element(2, gen_udp:open(0, [binary, {active, false}])) || _ <- lists:seq(1, 50)],
        [
            [
                ?assertEqual(<<"echo ", (integer_to_binary(N))/binary>>,
                    ask({Client, Address, Port, Tag}, integer_to_binary(N)))
             || N <- lists:seq(1, 20)
            ]
         || Client <- Clients
        ]
    end).

udp_has_nobody_to_write_to(Config) ->
    log_collector:install(),
    try
        serving(Config, "kinds.Nobody", fun(Context) ->
            _ = udp(Context, []),
            reactor_test:wait_connections(Context, 0),
            ?assertMatch(#{exceptions := 1}, py_reactor_context:stats(Context))
        end)
    after
        log_collector:remove()
    end.

%% The error of one datagram: the protocol hears of it, and goes on.
udp_refused_is_told_and_survived(Config) ->
    serving(Config, "kinds.Refused", fun(Context) ->
        {ok, Fd} = py:call(Context, kinds, connected_to_nobody, []),
        Tag = tag(),
        ok = py_reactor_context:handoff(Context, Fd, #{type => udp, tag => Tag}),
        {ok, _} = py:call(Context, kinds, close, [Fd]),
        wait_event(Context, Tag, <<"error_received">>),
        ?assertEqual(1, maps:get(connections, py_reactor_context:stats(Context)))
    end).

udp_to_what_is_no_address(Config) ->
    serving(Config, "kinds.Lost", fun(Context) ->
        Expected = ["['TypeError'" | [[", '", Error, "'"] || Error <- lists:duplicate(6, "TypeError") ++ ["ValueError", "ValueError"]]],
        ?assertEqual(iolist_to_binary([Expected, "]"]), ask(udp(Context, []), <<"x">>))
    end).

%% Whom a protocol answers is for strangers to say.
udp_to_port_0_is_told_and_survived(Config) ->
    serving(Config, "kinds.Misled", fun(Context) ->
        {Client, Address, Port, Tag} = Udp = udp(Context, []),
        ok = gen_udp:send(Client, Address, Port, <<"port 0">>),
        wait_event(Context, Tag, <<"error_received">>),
        ?assertMatch(<<"('127.0.0.1', ", _/binary>>, ask(Udp, <<"hello">>))
    end).

%% Anybody may send anything: it must not end the service for all.
udp_survives_what_a_datagram_breaks(Config) ->
    log_collector:install(),
    try
        serving(Config, "kinds.Fragile", fun(Context) ->
            {ok, Id} = py_reactor_table:id(Context),
            {Client, Address, Port, Tag} = Udp = udp(Context, []),
            [
                begin
                    ok = gen_udp:send(Client, Address, Port, Datagram),
                    {error, _, _} = log_collector:await(Id, ["kinds.Fragile", Text]),
                    ?assertEqual(<<"42">>, ask(Udp, <<"21">>))
                end
             || {Datagram, Text} <- [
                    {<<"no number">>, "ValueError"},
                    {<<"-1">>, "returned None"},
                    {<<"0">>, "error_received raised"}
                ]
            ],
            ?assertEqual(3, maps:get(exceptions, py_reactor_context:stats(Context))),
            %% What is meant to end it does.
            ok = gen_udp:send(Client, Address, Port, <<"-2">>),
            wait_event(Context, Tag, <<"connection_lost">>)
        end)
    after
        log_collector:remove()
    end.

udp_is_counted_in_bytes(Config) ->
    serving(Config, "kinds.Mirror", fun(Context) ->
        Udp = udp(Context, []),
        [?assertEqual(Data, ask(Udp, Data)) || Data <- [<<"hello">>, <<>>, <<"you">>]],
        wait_equal([{8, 8}], fun() ->
            [{Received, Sent} || #{received := Received, sent := Sent} <- py_reactor_context:connections(Context)]
        end)
    end).

udp_too_long_is_dropped_and_logged(Config) ->
    Options = #{buffer_bytes => 1024, setup_code => reactor_test:factory("kinds.Echo")},
    log_collector:install(),
    try
        reactor_test:with_context(Config, Options, fun(Context) ->
            {Client, Address, Port, _} = Udp = udp(Context, []),
            ok = gen_udp:send(Client, Address, Port, binary:copy(<<"x">>, 2000)),
            ?assertEqual(<<"echo short">>, ask(Udp, <<"short">>)),
            {ok, Id} = py_reactor_table:id(Context),
            {warning, _, _} = log_collector:await(Id, ["more than 880 bytes was dropped", "buffer_bytes"])
        end)
    after
        log_collector:remove()
    end.

unix_datagrams(Config) ->
    serving(Config, "kinds.Echo", fun(Context) ->
        {ok, {Ours, Theirs}} = py:call(Context, kinds, unix_datagrams, []),
        ok = py_reactor_context:handoff(Context, Ours, #{type => unix, tag => tag()}),
        {ok, _} = py:call(Context, kinds, put, [Theirs, <<"hello">>]),
        %% The echo is sent by the same thread, between these two calls.
        wait_equal(10, fun() -> maps:get(bytes_out, py_reactor_context:stats(Context)) end),
        ?assertEqual({ok, <<"echo hello">>}, py:call(Context, kinds, get, [Theirs, 10])),
        [{ok, none} = py:call(Context, kinds, close, [Fd]) || Fd <- [Ours, Theirs]]
    end).

%% Both ends of a pipe of the VM, one of them served.
pipe(Context, Served) ->
    pipe(Context, Served, #{}).

pipe(Context, Served, Info) ->
    {ok, {Read, Write}} = py:call(Context, kinds, pipe, []),
    Tag = tag(),
    {Ours, Theirs} = case Served of read -> {Read, Write}; write -> {Write, Read} end,
    ok = py_reactor_context:handoff(Context, Ours, Info#{type => pipe, tag => Tag}),
    {ok, none} = py:call(Context, kinds, close, [Ours]),
    {Theirs, Tag}.

pipe_to_read(Config) ->
    serving(Config, "kinds.Collect", fun(Context) ->
        {Write, Tag} = pipe(Context, read),
        {ok, 5} = py:call(Context, kinds, put, [Write, <<"first">>]),
        wait_event(Context, Tag, <<"data">>),
        {ok, 6} = py:call(Context, kinds, put, [Write, <<"second">>]),
        {ok, none} = py:call(Context, kinds, close, [Write]),
        wait_lost(Context, Tag),
        ?assertEqual(<<"firstsecond">>, iolist_to_binary([Data || {<<"data">>, Data} <- events(Context, Tag)])),
        ?assert(lists:keymember(<<"eof_received">>, 1, events(Context, Tag)))
    end).

%% Nothing can be sent to a writer, so that it has only stopped sending.
pipe_whose_writer_goes_while_its_protocol_waits(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        Script = #{data_received => [{<<>>, async_pending}]},
        {Write, Tag} = pipe(Context, read, #{script => Script}),
        {ok, 5} = py:call(Context, kinds, put, [Write, <<"first">>]),
        wait_event(Context, Tag, <<"data_received">>),
        {ok, none} = py:call(Context, kinds, close, [Write]),
        wait_equal({ok, true}, fun() -> py:call(Context, recorder, peer_closed, [Tag]) end),
        ?assertMatch([#{state := async, peer_closed := true}], py_reactor_context:connections(Context)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        ?assertMatch([<<"data_received">>, <<"write_ready">>, <<"eof_received">> | _], tl(wait_lost(Context, Tag)))
    end).

pipe_to_write(Config) ->
    serving(Config, "kinds.Lines", fun(Context) ->
        {Read, Tag} = pipe(Context, write),
        wait_lost(Context, Tag),
        %% Else the thread would wait for the end of file that it is to make.
        reactor_test:wait_connections(Context, 0),
        ?assertEqual({ok, <<"line 3\nline 2\nline 1\n">>}, py:call(Context, kinds, get, [Read, 1000])),
        {ok, none} = py:call(Context, kinds, close, [Read])
    end).

pipe_that_is_full(Config) ->
    serving(Config, "kinds.Flood", fun(Context) ->
        {Read, Tag} = pipe(Context, write),
        {ok, none} = py:call(Context, kinds, drain_in_a_thread, [Read, Tag]),
        wait_lost(Context, Tag),
        wait_equal({ok, {1048576, true}}, fun() -> py:call(Context, kinds, drained, [Tag]) end)
    end).

pipe_whose_reader_is_gone(Config) ->
    serving(Config, "kinds.Flood", fun(Context) ->
        {Read, Tag} = pipe(Context, write),
        {ok, none} = py:call(Context, kinds, close, [Read]),
        wait_lost(Context, Tag)
    end).

pipe_whose_reader_goes_while_nothing_is_written(Config) ->
    serving(Config, "kinds.Collect", fun(Context) ->
        {Read, Tag} = pipe(Context, write),
        wait_event(Context, Tag, <<"connection_made">>),
        {ok, none} = py:call(Context, kinds, close, [Read]),
        wait_lost(Context, Tag)
    end).

%% Its protocol waits for somebody else, and more is unread than waits for it.
terminal_that_hangs_up_while_nothing_is_read(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {ok, {Master, Slave}} = py:call(Context, kinds, terminal, []),
        Tag = tag(),
        Script = #{data_received => [{<<>>, async_pending}]},
        ok = py_reactor_context:handoff(Context, Slave, #{type => tty, tag => Tag, script => Script}),
        {ok, none} = py:call(Context, kinds, close, [Slave]),
        {ok, 5} = py:call(Context, kinds, put, [Master, <<"line\n">>]),
        wait_event(Context, Tag, <<"data_received">>),
        {ok, none} = py:call(Context, kinds, close, [Master]),
        wait_lost(Context, Tag)
    end).

terminal(Config) ->
    serving(Config, "kinds.Echo", fun(Context) ->
        {ok, {Master, Slave}} = py:call(Context, kinds, terminal, []),
        Tag = tag(),
        ok = py_reactor_context:handoff(Context, Master, #{type => tty, tag => Tag}),
        {ok, none} = py:call(Context, kinds, close, [Master]),
        {ok, 5} = py:call(Context, kinds, put, [Slave, <<"line\n">>]),
        wait_equal(true, fun() -> maps:get(messages, py_reactor_context:stats(Context)) > 0 end),
        {ok, none} = py:call(Context, kinds, close, [Slave]),
        wait_lost(Context, Tag)
    end).
