%% write() and read(): what they take, what they answer, and what the client gets of it.
-module(writing_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, serving/4, client/3, client/4, send/2, expect/2, expect_eof/1, wait_event/3, wait_lost/2]).

%% So little room in the kernel that output has to wait in the reactor.
-define(SMALL, [{sndbuf, 8192}, {recbuf, 8192}]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:transport_groups([
        write_answers_what_fits,
        an_object_is_taken_whole,
        write_ready_of_the_documents_copies_once,
        every_kind_of_bytes_is_accepted,
        other_objects_are_refused,
        mutable_objects_may_change_afterwards,
        received_buffers_are_sent_back,
        many_small_writes_keep_their_order,
        a_slow_reader_gets_everything_in_order,
        a_slow_reader_does_not_delay_others,
        echo_of_ten_megabytes_by_the_base_class,
        echo_of_ten_megabytes_by_hand,
        write_after_the_end_answers_zero,
        write_after_a_reset_answers_zero,
        write_from_another_thread_is_an_error,
        read_answers_what_waits,
        read_at_the_end_is_empty,
        read_in_parts,
        base_write_ready_called_from_python,
        write_buffer_may_be_replaced,
        only_by_a_bytearray,
        a_write_buffer_that_is_held_is_copied,
        a_write_buffer_of_which_there_is_a_view_is_not_sent,
        a_write_buffer_is_cut_by_what_was_sent,
        what_leaves_at_once_and_what_waits_are_in_order,
        an_emptied_write_buffer_keeps_little_memory
    ] ++ reactor_test:undisturbed([who_sends_much_is_answered_as_long_as_the_kernel_takes_it])
      ++ reactor_test:long([five_gigabytes_in_one_object])).

value(Context, Tag, Name) ->
    {ok, Value} = py:call(Context, writes, value, [Tag, Name]),
    Value.

%% With a mark of 64 KiB: all below it is taken, then nothing, and write_ready comes when the client has read.
write_answers_what_fits(Config) ->
    Options = #{write_high_bytes => 65536, write_low_bytes => 16384},
    serving(Config, "writes.FillsUp", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        ?assertEqual([60000, 5536, 0, 0], value(Context, Tag, answers)),
        Expected = [binary:copy(<<"a">>, 60000), binary:copy(<<"b">>, 5536), binary:copy(<<"d">>, 65536)],
        ?assertEqual(iolist_to_binary(Expected), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag),
        %% The queue had fallen to the low-water mark before write_ready was called.
        ?assert(value(Context, Tag, room) >= 65536 - 16384)
    end).

%% B3: where nothing waits, an object is taken whole, for nothing of it is copied. What comes behind it is refused, and
%% write_ready comes at the low-water mark.
an_object_is_taken_whole(Config) ->
    Options = #{write_high_bytes => 65536, write_low_bytes => 16384},
    serving(Config, "writes.OneObject", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        ?assertEqual([3000000, 0, 0], value(Context, Tag, answers)),
        [#{unsent := Unsent}] = py_reactor_context:connections(Context),
        ?assert(Unsent > 65536, Unsent),
        [#{connection := Handle}] = py_reactor_context:connections(Context),
        ?assertEqual({error, {no_room, 0}}, py_reactor_context:send(Context, Handle, "x")),
        Expected = [binary:copy(<<"a">>, 3000000), binary:copy(<<"b">>, 65536)],
        ?assertEqual(iolist_to_binary(Expected), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag),
        ?assert(value(Context, Tag, room) >= 65536 - 16384)
    end).

%% More than one send can take, and more than 32 bits can count: zeros, for which no memory is used.
five_gigabytes_in_one_object(Config) ->
    %% It takes seconds: once for each way to send.
    case {reactor_test:mode(Config), proplists:get_value(transport, Config)} of
        {worker, tcp} ->
            serving(Config, "writes.FiveGigabytes", fun(Context) ->
                {Client, Tag} = client(Context, Config, #{}, [{recbuf, 4000000}]),
                send(Client, <<"go">>),
                ?assertEqual(5 bsl 30, count(Client, 0)),
                ?assertEqual(5 bsl 30, value(Context, Tag, answer))
            end);
        _ ->
            {skip, "sent in the same way as over TCP, in the main interpreter"}
    end.

count(Client, Count) ->
    case gen_tcp:recv(Client, 0, 30000) of
        {ok, Part} -> count(Client, Count + byte_size(Part));
        {error, closed} -> Count
    end.

%% Whatever waited before.
write_ready_of_the_documents_copies_once(Config) ->
    serving(Config, "writes.AsDocumented", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        Size = 10000000,
        send(Client, <<"document">>),
        ?assertEqual({ok, binary:copy(<<"d">>, Size)}, reactor_test:receive_bytes(Client, Size)),
        ?assertEqual(Size, value(Context, Tag, copied)),
        send(Client, <<"header">>),
        ?assertEqual({ok, <<"header", (binary:copy(<<"d">>, Size))/binary>>}, reactor_test:receive_bytes(Client, Size + 6)),
        %% Once behind the header, and once when that was sent.
        ?assert(value(Context, Tag, copied) =< 3 * Size)
    end).

every_kind_of_bytes_is_accepted(Config) ->
    serving(Config, "writes.EveryKind", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"received">>),
        Expected = <<"bytes,bytearray,memoryview,", 1:32/little, 2:32/little, "received", "slice,", "mmap,", "subclass">>,
        ?assertEqual(Expected, reactor_test:receive_all(Client)),
        ?assertEqual([6, 10, 11, 8, 8, 0, 6, 5, 8], value(Context, Tag, answers))
    end).

other_objects_are_refused(Config) ->
    serving(Config, "writes.WrongKinds", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        ?assertEqual(<<"still alive">>, reactor_test:receive_all(Client)),
        Expected = lists:duplicate(5, <<"TypeError">>) ++ [<<"BufferError">>],
        ?assertEqual(Expected, value(Context, Tag, answers))
    end).

mutable_objects_may_change_afterwards(Config) ->
    serving(Config, "writes.Mutates", fun(Context) ->
        {Client, _} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"x">>),
        Expected = [binary:copy(Letter, 40000) || Letter <- [<<"a">>, <<"b">>, <<"c">>]],
        ?assertEqual(iolist_to_binary(Expected), reactor_test:receive_all(Client))
    end).

received_buffers_are_sent_back(Config) ->
    serving(Config, "streams.EchoByHand", fun(Context) ->
        {Client, _} = client(Context, Config, #{}),
        [
            begin
                Data = crypto:strong_rand_bytes(Size),
                send(Client, Data),
                expect(Client, Data)
            end
         || Size <- [1, 2, 100, 16383, 16384, 16385, 60000]
        ],
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        reactor_test:wait_equal(0, fun() -> maps:get(buffers_lent, py_reactor_context:stats(Context)) end)
    end).

many_small_writes_keep_their_order(Config) ->
    serving(Config, "writes.ManySmall", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"x">>),
        Expected = iolist_to_binary([[integer_to_binary(N), ","] || N <- lists:seq(0, 9999)]),
        ?assertEqual(Expected, reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

numbers(Bytes) ->
    << <<N:32/little>> || N <- lists:seq(0, Bytes div 4 - 1) >>.

a_slow_reader_gets_everything_in_order(Config) ->
    Options = #{write_high_bytes => 10000, write_low_bytes => 100},
    serving(Config, "streams.Download", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"1000000 ">>),
        ?assertEqual(numbers(1000000), read_slowly(Client, 1000000, 777, [])),
        expect_eof(Client),
        wait_lost(Context, Tag),
        {ok, Accepted} = py:call(Context, streams, accepted, [Tag]),
        ?assertEqual(1000000, lists:sum(Accepted)),
        ?assert(lists:max(Accepted) =< 10000)
    end).

read_slowly(_Client, 0, _Size, Parts) ->
    iolist_to_binary(lists:reverse(Parts));
read_slowly(Client, Left, Size, Parts) ->
    {ok, Part} = gen_tcp:recv(Client, min(Left, Size), 30000),
    erlang:yield(),
    read_slowly(Client, Left - byte_size(Part), Size, [Part | Parts]).

a_slow_reader_does_not_delay_others(Config) ->
    serving(Config, "streams.Download", fun(Context) ->
        Slow = [element(1, client(Context, Config, #{}, ?SMALL)) || _ <- lists:seq(1, 20)],
        [send(Client, <<"4000000 ">>) || Client <- Slow],
        [
            begin
                {Quick, Tag} = client(Context, Config, #{}),
                send(Quick, <<"400000 ">>),
                ?assertEqual(numbers(400000), reactor_test:receive_all(Quick)),
                wait_lost(Context, Tag)
            end
         || _ <- lists:seq(1, 5)
        ],
        ?assertEqual(20, maps:get(connections, py_reactor_context:stats(Context))),
        [reactor_test:reset(Client) || Client <- Slow],
        reactor_test:wait_connections(Context, 0)
    end).

echo_of_ten_megabytes_by_the_base_class(Config) ->
    echo_of_ten_megabytes(Config, "streams.Echo").

echo_of_ten_megabytes_by_hand(Config) ->
    echo_of_ten_megabytes(Config, "streams.EchoByHand").

echo_of_ten_megabytes(Config, Factory) ->
    serving(Config, Factory, fun(Context) ->
        {Client, _} = client(Context, Config, #{}),
        Data = crypto:strong_rand_bytes(10000000),
        {Sender, Monitor} = spawn_monitor(fun() -> ok = gen_tcp:send(Client, Data) end),
        {ok, Echo} = reactor_test:receive_bytes(Client, byte_size(Data)),
        ?assertEqual(erlang:md5(Data), erlang:md5(Echo)),
        receive
            {'DOWN', Monitor, process, Sender, Reason} -> ?assertEqual(normal, Reason)
        end,
        #{bytes_in := 10000000} = py_reactor_context:stats(Context),
        reactor_test:wait_equal(10000000, fun() -> maps:get(bytes_out, py_reactor_context:stats(Context)) end)
    end).

write_after_the_end_answers_zero(Config) ->
    serving(Config, "writes.WritesWhenLost", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        ?assertEqual([true, lists:duplicate(49, 0), lists:duplicate(50, <<>>)], element(2, py:call(Context, recorder, use_up, [Tag]))),
        ?assertEqual([0, <<>>], value(Context, Tag, answers)),
        %% A new connection may have the same descriptor: the old protocol must not reach it.
        {Other, _} = client(Context, Config, #{}),
        {ok, _} = py:call(Context, recorder, use_up, [Tag]),
        send(Other, <<"y">>),
        expect(Other, <<"y">>)
    end).

write_after_a_reset_answers_zero(Config) ->
    serving(Config, "writes.WritesWhenLost", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        reactor_test:reset(Client),
        wait_lost(Context, Tag),
        ?assertEqual([true, lists:duplicate(49, 0), lists:duplicate(50, <<>>)], element(2, py:call(Context, recorder, use_up, [Tag])))
    end).

write_from_another_thread_is_an_error(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        ?assertEqual({ok, <<"RuntimeError">>}, py:call(Context, writes, write_from_thread, [Tag])),
        send(Client, <<"y">>),
        expect(Client, <<"y">>)
    end).

read_answers_what_waits(Config) ->
    serving(Config, "writes.Reads", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"first">>),
        wait_event(Context, Tag, <<"data_received">>),
        ?assertEqual({ok, none}, py:call(Context, writes, read, [Tag, 10])),
        send(Client, <<"second">>),
        reactor_test:wait_equal({ok, <<"second">>}, fun() -> py:call(Context, writes, read, [Tag, 10]) end),
        ?assertEqual({ok, none}, py:call(Context, writes, read, [Tag, 10])),
        ?assertMatch({error, {python_error, #{type := <<"ValueError">>}}}, py:call(Context, writes, read, [Tag, 0]))
    end).

read_at_the_end_is_empty(Config) ->
    serving(Config, "writes.Reads", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"first">>),
        wait_event(Context, Tag, <<"data_received">>),
        send(Client, <<"last">>),
        ok = gen_tcp:shutdown(Client, write),
        reactor_test:wait_equal({ok, <<"last">>}, fun() -> py:call(Context, writes, read, [Tag, 100]) end),
        reactor_test:wait_equal({ok, <<>>}, fun() -> py:call(Context, writes, read, [Tag, 100]) end),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

%% What read() leaves is delivered later, in order.
read_in_parts(Config) ->
    serving(Config, "writes.Reads", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"first">>),
        wait_event(Context, Tag, <<"data_received">>),
        send(Client, <<"abcdefghij">>),
        reactor_test:wait_equal({ok, <<"abc">>}, fun() -> py:call(Context, writes, read, [Tag, 3]) end),
        ?assertEqual({ok, <<"defg">>}, py:call(Context, writes, read, [Tag, 4])),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        reactor_test:wait_until(fun() ->
            lists:member({<<"data_received">>, <<"hij">>}, reactor_test:events(Context, Tag))
        end)
    end).

base_write_ready_called_from_python(Config) ->
    serving(Config, "writes.CallsSuper", fun(Context) ->
        {Client, _} = client(Context, Config, #{}),
        Data = binary:copy(<<"0123456789">>, 100000),
        spawn_link(fun() -> gen_tcp:send(Client, Data) end),
        expect(Client, Data)
    end).

write_buffer_may_be_replaced(Config) ->
    serving(Config, "writes.ReplacesBuffer", fun(Context) ->
        {Client, _} = client(Context, Config, #{}),
        send(Client, <<"x">>),
        expect(Client, <<"replaced">>),
        send(Client, <<"x">>),
        expect(Client, <<"replaced">>)
    end).

only_by_a_bytearray(Config) ->
    ok = log_collector:install(),
    try
        serving(Config, "writes.LosesBuffer", fun(Context) ->
            {ok, Id} = py_reactor_table:id(Context),
            [
                begin
                    {Client, Tag} = client(Context, Config, #{}),
                    send(Client, Sent),
                    expect_eof(Client),
                    wait_lost(Context, Tag),
                    log_collector:await(Id, ["LosesBuffer.write_ready raised", "write_buffer must be a bytearray, not " ++ Kind])
                end
             || {Sent, Kind} <- [{<<"immutable">>, "bytes"}, {<<"deleted">>, "deleted"}]
            ]
        end)
    after
        log_collector:remove()
    end.

%% I2: a large write_buffer is given to the kernel, but not one that the protocol can still reach.
a_write_buffer_that_is_held_is_copied(Config) ->
    serving(Config, "writes.HoldsBuffer", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"write">>),
        expect(Client, <<"a">>),
        send(Client, <<"change">>),
        wait_event(Context, Tag, <<"changed">>),
        ?assertEqual(0, value(Context, Tag, left)),
        expect(Client, binary:copy(<<"a">>, 199999))
    end).

%% It cannot be cut, so what was sent of it would be sent again.
a_write_buffer_of_which_there_is_a_view_is_not_sent(Config) ->
    serving(Config, "writes.HoldsView", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config, #{}),
                send(Client, How),
                ?assertEqual(<<How/binary, " once">>, reactor_test:receive_all(Client)),
                wait_lost(Context, Tag),
                ?assertEqual(3, value(Context, Tag, refused))
            end
         || How <- [<<"super">>, <<"by write">>]
        ]
    end).

%% Whatever a subclass makes of its methods, and whatever happens to it while Python's write runs.
a_write_buffer_is_cut_by_what_was_sent(Config) ->
    serving(Config, "writes.Uncuttable", fun(Context) ->
        [
            begin
                {Client, _} = client(Context, Config, #{}, ?SMALL),
                send(Client, How),
                ?assertEqual(<<(binary:copy(<<"a">>, 300000))/binary, Tail/binary>>, reactor_test:receive_all(Client), How)
            end
         || {How, Tail} <- [{<<"subclass">>, <<>>}, {<<"viewed">>, <<>>}, {<<"appended">>, <<"tail">>}, {<<"raises">>, <<>>}]
        ]
    end).

%% Of a write_buffer of any length some leaves at once, and the rest as there is room: behind what was written before, and before what
%% is written later.
what_leaves_at_once_and_what_waits_are_in_order(Config) ->
    Lengths = [5000, 40000, 100, 16384, 70000, 4096, 300000, 20000, 10, 90000],
    serving(Config, "writes.Counts", fun(Context) ->
        [
            begin
                {Client, _} = client(Context, Config, #{}, Options),
                [send(Client, <<Before, Length:24>>) || Length <- Lengths],
                Total = lists:sum(Lengths) + length(Lengths) * Before,
                expect(Client, binary:part(<< <<N:32>> || N <- lists:seq(0, Total div 4) >>, 0, Total))
            end
         || Before <- [0, 10], Options <- [?SMALL, []]
        ]
    end).

%% Also if nobody looks at what write answers, and what is received at a time fills the queue: it is sent before more is received.
%% Half as much may wait besides, of a send that is under way.
who_sends_much_is_answered_as_long_as_the_kernel_takes_it(Config) ->
    serving(Config, "writes.EchoRegardless", #{write_high_bytes => 96 * 1024}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, [{sndbuf, 1 bsl 20}, {recbuf, 1 bsl 20}]),
        Data = binary:copy(<<"0123456789abcdef">>, 12 * 1024),
        [
            begin
                send(Client, Data),
                reactor_test:wait_equal(Nth * byte_size(Data), fun() -> value(Context, Tag, received) end),
                ?assertEqual(0, value(Context, Tag, refused), Nth),
                expect(Client, Data)
            end
         || Nth <- lists:seq(1, 20)
        ]
    end).

%% Neither new memory for each small message, nor what a large one has had.
an_emptied_write_buffer_keeps_little_memory(Config) ->
    serving(Config, "writes.BeginsAnew", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        [
            begin
                Data = binary:copy(<<"abc">>, Length),
                send(Client, Data),
                expect(Client, Data)
            end
         || Length <- [1, 30, 30, 170, 171, 200, 5000, 1, 20000, 30, 30]
        ],
        ?assertEqual(true, value(Context, Tag, keeps_little))
    end).
