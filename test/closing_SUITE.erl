%% How connections end: what was written arrives, nothing is reset that need not be, and a dead peer costs nothing.
-module(closing_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, serving/4, client/3, client/4, send/2, expect/2, expect_eof/1, methods/2, wait_event/3, wait_lost/2]).

-define(SMALL, [{sndbuf, 8192}, {recbuf, 8192}]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:transport_groups([
        close_delivers_five_megabytes,
        close_delivers_from_write_buffer,
        close_with_unread_input_is_no_reset,
        close_while_the_client_goes_on_sending,
        lost_is_told_once_everything_is_sent,
        reset_while_output_is_pending,
        reset_while_idle,
        reset_in_async_mode,
        reset_of_many_does_not_disturb_others,
        client_that_never_closes_is_closed,
        close_from_elsewhere_delivers_first,
        no_callback_after_close,
        immediate_close_of_a_thousand
    ]).

numbers(Bytes) ->
    << <<N:32/little>> || N <- lists:seq(0, Bytes div 4 - 1) >>.

read_slowly(_Client, 0, Parts) ->
    iolist_to_binary(lists:reverse(Parts));
read_slowly(Client, Left, Parts) ->
    {ok, Part} = gen_tcp:recv(Client, min(Left, 1000), 30000),
    erlang:yield(),
    read_slowly(Client, Left - byte_size(Part), [Part | Parts]).

%% All five are accepted by one write, and "close" is answered in the same callback.
close_delivers_five_megabytes(Config) ->
    Options = #{write_high_bytes => 10000000, linger_ms => 60000},
    serving(Config, "streams.Download", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"5000000 ">>),
        wait_event(Context, Tag, <<"connection_made">>),
        ?assertEqual(numbers(5000000), read_slowly(Client, 5000000, [])),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

close_delivers_from_write_buffer(Config) ->
    serving(Config, "closing.WholeBuffer", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"x">>),
        ?assertEqual(binary:copy(<<"0123456789">>, 200000), read_slowly(Client, 2000000, [])),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

%% More has arrived than the protocol ever reads. To close the descriptor now would destroy the response.
close_with_unread_input_is_no_reset(Config) ->
    Options = #{write_high_bytes => 10000000},
    serving(Config, "streams.Download", Options, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, ["1000000 ", binary:copy(<<"unread ">>, 30000)]),
        ?assertEqual(numbers(1000000), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

close_while_the_client_goes_on_sending(Config) ->
    serving(Config, "recorder.Scripted", #{linger_bytes => 1000000000, linger_ms => 600000}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<"enough">>, close}]}}, [{exit_on_close, false}]),
        [send(Client, binary:copy(<<"x">>, 100000)) || _ <- lists:seq(1, 50)],
        ?assertEqual(<<"enough">>, reactor_test:receive_all(Client)),
        %% Our FIN does not stop the client: its bytes are thrown away, and no reset answers them.
        [send(Client, binary:copy(<<"x">>, 100000)) || _ <- lists:seq(1, 50)],
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        ?assertEqual([<<"connection_made">>, <<"data_received">>, <<"connection_lost">>], wait_lost(Context, Tag))
    end).

lost_is_told_once_everything_is_sent(Config) ->
    serving(Config, "streams.Download", #{write_high_bytes => 40000000}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"20000000 ">>),
        reactor_test:wait_equal({ok, [20000000]}, fun() -> py:call(Context, streams, accepted, [Tag]) end),
        ?assertEqual([<<"connection_made">>], methods(Context, Tag)),
        #{bytes_out := Sent} = py_reactor_context:stats(Context),
        ?assert(Sent < 20000000),
        ?assertEqual(20000000, byte_size(reactor_test:receive_all(Client))),
        wait_lost(Context, Tag)
    end).

%% Whatever a protocol answers for ever: its connection ends by itself, and the thread does not spin for it.
reset_while_output_is_pending(Config) ->
    serving(Config, "closing.NeverGivesUp", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config, #{answer => Answer}, ?SMALL),
                send(Client, <<"x">>),
                reactor_test:wait_until(fun() ->
                    {ok, Full} = py:call(Context, closing, is_full, [Tag]),
                    Full
                end),
                reactor_test:reset(Client),
                wait_lost(Context, Tag),
                reactor_test:wait_connections(Context, 0)
            end
         || Answer <- [continue, write_pending]
        ],
        ?assertEqual(idle, turning(Context))
    end).

%% Whether the loop goes round although nothing happens. A call is one event; it and its answer cost a few turns.
turning(Context) ->
    #{turns := Before} = py_reactor_context:stats(Context),
    [{ok, 1} = py:eval(Context, "1") || _ <- lists:seq(1, 100)],
    #{turns := After} = py_reactor_context:stats(Context),
    case After - Before < 1000 of
        true -> idle;
        false -> {turns, After - Before}
    end.

reset_while_idle(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        wait_event(Context, Tag, <<"connection_made">>),
        reactor_test:reset(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0)
    end).

%% Nobody signals, and nothing is written: the end is noticed all the same.
reset_in_async_mode(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<"w">>, async_pending}]}}),
        send(Client, <<"x">>),
        expect(Client, <<"w">>),
        reactor_test:reset(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0)
    end).

reset_of_many_does_not_disturb_others(Config) ->
    serving(Config, "closing.NeverGivesUp", fun(Context) ->
        {Neighbour, _} = client(Context, Config, #{answer => read_pending}),
        Clients = [element(1, client(Context, Config, #{answer => continue}, ?SMALL)) || _ <- lists:seq(1, 200)],
        [send(Client, <<"x">>) || Client <- Clients],
        [reactor_test:reset(Client) || Client <- Clients],
        send(Neighbour, <<"x">>),
        ?assertMatch({ok, _}, gen_tcp:recv(Neighbour, 1000, 30000)),
        reactor_test:wait_connections(Context, 1),
        ?assertEqual(idle, turning(Context))
    end).

%% It holds its end open for ever: after linger_ms ours is closed.
client_that_never_closes_is_closed(Config) ->
    serving(Config, "recorder.Scripted", #{linger_ms => 50}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<"bye">>, close}]}}),
        send(Client, <<"x">>),
        expect(Client, <<"bye">>),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0),
        expect_eof(Client)
    end).

close_from_elsewhere_delivers_first(Config) ->
    serving(Config, "streams.Download", #{write_high_bytes => 10000000}, fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}, ?SMALL),
        send(Client, <<"4000000 ">>),
        wait_event(Context, Tag, <<"connection_made">>),
        reactor_test:wait_equal({ok, [4000000]}, fun() -> py:call(Context, streams, accepted, [Tag]) end),
        {ok, none} = py:call(Context, recorder, close, [Tag]),
        ?assertEqual(numbers(4000000), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

no_callback_after_close(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => #{data_received => [{<<"1">>, close}]}}),
        send(Client, <<"a">>),
        expect(Client, <<"1">>),
        _ = [gen_tcp:send(Client, <<"b">>) || _ <- lists:seq(1, 10)],
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        reactor_test:wait_connections(Context, 0),
        ?assertEqual([<<"connection_made">>, <<"data_received">>, <<"connection_lost">>], methods(Context, Tag))
    end).

immediate_close_of_a_thousand(Config) ->
    serving(Config, "closing.Counts", fun(Context) ->
        [
            begin
                {Client, _} = client(Context, Config, #{tag => <<"thousand">>}),
                gen_tcp:close(Client)
            end
         || _ <- lists:seq(1, 1000)
        ],
        reactor_test:wait_connections(Context, 0),
        ?assertMatch(#{accepted := 1000, closed := 1000, exceptions := 0}, py_reactor_context:stats(Context)),
        Made = {ok, [1000, 1000]},
        ?assertEqual(Made, py:call(Context, closing, counts_of_this_context, []))
    end).
