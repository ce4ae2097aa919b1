%% Every action from every callback that may return it, over real sockets.
-module(actions_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/3, send/2, expect/2, expect_eof/1, events/2, methods/2, wait_event/3, wait_lost/2, wait_until/1]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:transport_groups([
        data_continue,
        data_read_pending,
        data_write_pending,
        data_close,
        data_async_pending_is_silent,
        signal_on_the_context_thread,
        signal_from_another_thread,
        signal_in_the_callback,
        signal_from_a_thread_before_the_callback_returns,
        signal_from_a_thread_after_the_callback_returned,
        signal_without_a_wait_does_nothing,
        late_signal_loses_no_answer,
        signal_within_a_callback_is_for_its_answer,
        signal_while_a_task_holds_is_for_its_answer,
        signal_before_a_half_closed_connection_ends,
        signal_before_a_drain,
        write_ready_continue,
        write_ready_write_pending,
        write_ready_read_pending,
        write_ready_close,
        write_ready_async_pending,
        data_waits_while_writing,
        eof_default_close,
        eof_continue,
        eof_write_pending,
        eof_read_pending,
        eof_async_pending,
        eof_after_data_in_write_mode,
        half_close_still_gets_the_response,
        an_output_that_ends,
        connection_made_may_write,
        peer_closes_in_async_mode,
        close_connection_of_a_waiting_protocol
    ]).

%% Runs Fun with a connection whose protocol follows a script (see recorder.py).
scripted(Config, Script, Fun) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => Script}),
        Result = Fun(Context, Client, Tag),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        Result
    end).

received(Context, Tag) ->
    iolist_to_binary([Data || {<<"data_received">>, Data} <- events(Context, Tag)]).

%% The callbacks from the first data on.
after_data(Context, Tag) ->
    lists:dropwhile(fun(Method) -> Method =/= <<"data_received">> end, methods(Context, Tag)).

wait_received(Context, Tag, Data) ->
    reactor_test:wait_equal(Data, fun() -> received(Context, Tag) end).

data_continue(Config) ->
    scripted(Config, #{data_received => [{<<>>, continue}]}, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_received(Context, Tag, <<"one">>),
        send(Client, <<"two">>),
        wait_received(Context, Tag, <<"onetwo">>),
        ?assertEqual([<<"data_received">>, <<"data_received">>], after_data(Context, Tag))
    end).

data_read_pending(Config) ->
    scripted(Config, #{data_received => [{<<"a">>, read_pending}]}, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"a">>),
        send(Client, <<"two">>),
        expect(Client, <<"a">>),
        ?assertEqual([<<"data_received">>, <<"data_received">>], after_data(Context, Tag))
    end).

data_write_pending(Config) ->
    Script = #{data_received => [{<<>>, write_pending}], write_ready => [{<<"w">>, read_pending}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"w">>),
        send(Client, <<"two">>),
        expect(Client, <<"w">>),
        Once = [<<"data_received">>, <<"write_ready">>],
        ?assertEqual(Once ++ Once, after_data(Context, Tag))
    end).

data_close(Config) ->
    scripted(Config, #{data_received => [{<<"bye">>, close}]}, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"bye">>),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual([<<"data_received">>, <<"connection_lost">>], after_data(Context, Tag))
    end).

data_async_pending_is_silent(Config) ->
    Script = #{data_received => [{<<>>, async_pending}, {<<>>, continue}], write_ready => [{<<"now">>, read_pending}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_received(Context, Tag, <<"one">>),
        send(Client, <<"two">>),
        %% The neighbour's round trip shows that the thread has seen what arrived before.
        {Neighbour, _} = client(Context, Config, #{script => #{data_received => [{<<"!">>, close}]}}),
        send(Neighbour, <<"?">>),
        expect(Neighbour, <<"!">>),
        ?assertEqual([<<"data_received">>], after_data(Context, Tag)),
        ?assertEqual({ok, true}, py:call(Context, recorder, signal, [Tag])),
        expect(Client, <<"now">>),
        wait_received(Context, Tag, <<"onetwo">>),
        ?assertEqual([<<"data_received">>, <<"write_ready">>, <<"data_received">>], after_data(Context, Tag))
    end).

signal_on_the_context_thread(Config) ->
    signalled(Config, async_pending, fun(Context, Tag) -> py:call(Context, recorder, signal, [Tag]) end).

signal_from_another_thread(Config) ->
    signalled(Config, async_pending, fun(Context, Tag) -> py:call(Context, recorder, signal_from_thread, [Tag]) end).

signal_in_the_callback(Config) ->
    signalled(Config, {signal, async_pending}, fun(_Context, _Tag) -> {ok, true} end).

signal_from_a_thread_before_the_callback_returns(Config) ->
    signalled(Config, {thread, async_pending}, fun(_Context, _Tag) -> {ok, true} end).

signal_from_a_thread_after_the_callback_returned(Config) ->
    signalled(Config, {later, async_pending}, fun(Context, Tag) ->
        {ok, none} = py:call(Context, recorder, release, [Tag]),
        {ok, true}
    end).

signalled(Config, Answer, Signal) ->
    Script = #{data_received => [{<<>>, Answer}], write_ready => [{<<"a">>, continue}, {<<"b">>, read_pending}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_event(Context, Tag, <<"data_received">>),
        ?assertEqual({ok, true}, Signal(Context, Tag)),
        expect(Client, <<"ab">>)
    end).

signal_without_a_wait_does_nothing(Config) ->
    scripted(Config, #{data_received => [{<<"x">>, continue}]}, fun(Context, Client, Tag) ->
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        send(Client, <<"one">>),
        expect(Client, <<"x">>),
        ?assertEqual([<<"connection_made">>, <<"data_received">>], methods(Context, Tag)),
        ?assertEqual({ok, false}, py:call(Context, 'erlang.reactor', signal_write_ready, [1000000])),
        ?assertEqual({ok, false}, py:call(Context, 'erlang.reactor', signal_write_ready, [-1]))
    end).

%% Somebody else's signal, as one by the number of a connection that is gone, ends a wait before there is an answer. That comes in
%% read mode then.
late_signal_loses_no_answer(Config) ->
    [loses_no_answer(Config, Info, By, Where) || Info <- [inherited, by_hand], By <- [method, handle, number], Where <- [here, thread]].

loses_no_answer(Config, Writes, By, Where) ->
    serving(Config, "signals.Silent", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"one">>),
        wait_received(Context, Tag, <<"one">>),
        _ = [{ok, _} = py:call(Context, signals, write_by_hand, [Tag]) || Writes =:= by_hand],
        {ok, true} = py:call(Context, recorder, signal_from_thread, [Tag]),
        wait_state(Context, read),
        {ok, true} = py:call(Context, signals, answer, [Tag, By, Where, <<"first">>]),
        expect(Client, <<"first">>),
        wait_state(Context, read),
        %% What is more than there is room for, too.
        Large = binary:copy(<<"large">>, 1000000),
        {ok, true} = py:call(Context, signals, answer, [Tag, By, Where, Large]),
        send(Client, <<"two">>),
        expect(Client, Large),
        wait_received(Context, Tag, <<"onetwo">>),
        {ok, true} = py:call(Context, signals, answer, [Tag, By, Where, <<"last">>]),
        expect(Client, <<"last">>),
        gen_tcp:close(Client),
        wait_lost(Context, Tag)
    end).

wait_state(Context, State) ->
    wait_until(fun() -> [S || #{state := S} <- py_reactor_context:connections(Context)] =:= [State] end).

signal_within_a_callback_is_for_its_answer(Config) ->
    serving(Config, "signals.Within", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config, #{answer => Answer, first => First}),
                expect(Client, <<"made ">>),
                send(Client, <<"data ">>),
                expect(Client, <<"data ">>),
                wait_until(fun() -> [Fd || #{fd := Fd, state := read} <- py_reactor_context:connections(Context)] =/= [] end),
                [#{connection := Connection}] = py_reactor_context:connections(Context),
                ok = py_reactor_context:notify(Context, Connection, hello),
                expect(Client, <<"message ">>),
                gen_tcp:close(Client),
                wait_lost(Context, Tag),
                wait_until(fun() -> py_reactor_context:connections(Context) =:= [] end)
            end
         || Answer <- [continue, read_pending, write_pending, async_pending], First <- [true, false]
        ]
    end).

%% Whoever signals meanwhile, has what the task answers followed by what stands in write_buffer then.
signal_while_a_task_holds_is_for_its_answer(Config) ->
    serving(Config, "signals.Holding", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"one">>),
        wait_received(Context, Tag, <<"one">>),
        {ok, true} = py:call(Context, signals, answer, [Tag, handle, thread, <<"answer">>]),
        [#{connection := Connection, state := async}] = py_reactor_context:connections(Context),
        ok = py_reactor_context:notify(Context, Connection, go_on),
        expect(Client, <<"answer">>),
        gen_tcp:close(Client),
        wait_lost(Context, Tag)
    end).

signal_before_a_half_closed_connection_ends(Config) ->
    serving(Config, "signals.Within", fun(Context) ->
        [
            begin
                {Client, Tag} = client(Context, Config, #{answer => Answer, first => false}),
                expect(Client, <<"made ">>),
                ok = gen_tcp:shutdown(Client, write),
                expect(Client, <<"end">>),
                expect_eof(Client),
                wait_lost(Context, Tag)
            end
         || Answer <- [continue, read_pending, write_pending, async_pending]
        ]
    end).

%% The drain comes first, if both wait for the thread.
signal_before_a_drain(Config) ->
    serving(Config, "signals.Silent", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        Gate = reactor_test:hold(Context),
        ok = py:cast(Context, signals, answer, [Tag, method, thread, <<"answer">>]),
        {Drain, Monitor} = spawn_monitor(fun() -> ok = py_reactor_context:drain(Context, 30000) end),
        reactor_test:wait_queued(Context, 2),
        Gate ! open,
        expect(Client, <<"answer">>),
        expect_eof(Client),
        gen_tcp:close(Client),
        receive {'DOWN', Monitor, process, Drain, Reason} -> ?assertEqual(normal, Reason) end
    end).

write_ready_continue(Config) ->
    called_again(Config, continue).

write_ready_write_pending(Config) ->
    called_again(Config, write_pending).

called_again(Config, Again) ->
    Script = #{
        data_received => [{<<>>, write_pending}],
        write_ready => [{<<"a">>, Again}, {<<"b">>, Again}, {<<"c">>, read_pending}, {<<"d">>, read_pending}]
    },
    scripted(Config, Script, fun(_Context, Client, _Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"abc">>),
        send(Client, <<"two">>),
        expect(Client, <<"d">>)
    end).

write_ready_read_pending(Config) ->
    Script = #{data_received => [{<<>>, write_pending}, {<<"r">>, continue}], write_ready => [{<<>>, read_pending}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_event(Context, Tag, <<"write_ready">>),
        send(Client, <<"two">>),
        expect(Client, <<"r">>),
        ?assertEqual([<<"data_received">>, <<"write_ready">>, <<"data_received">>], after_data(Context, Tag))
    end).

write_ready_close(Config) ->
    Script = #{data_received => [{<<"a">>, write_pending}], write_ready => [{<<"b">>, continue}, {<<"c">>, close}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"abc">>),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

%% A worker for each of several requests that came together: write_ready starts the next one and waits again.
write_ready_async_pending(Config) ->
    Script = #{
        data_received => [{<<>>, {thread, async_pending}}],
        write_ready => [{<<"a">>, {thread, async_pending}}, {<<"b">>, {signal, async_pending}}, {<<"c">>, async_pending}, {<<"d">>, read_pending}]
    },
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        expect(Client, <<"abc">>),
        wait_until(fun() -> length([M || <<"write_ready">> = M <- methods(Context, Tag)]) =:= 3 end),
        {ok, true} = py:call(Context, recorder, signal_from_thread, [Tag]),
        expect(Client, <<"d">>)
    end).

%% No data_received in write mode: here write_ready goes on until it is told to stop.
data_waits_while_writing(Config) ->
    serving(Config, "streams.WritesUntilTold", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"go">>),
        wait_event(Context, Tag, <<"data_received">>),
        Numbers = [[integer_to_binary(N), " "] || N <- lists:seq(1, 500)],
        [send(Client, Number) || Number <- Numbers],
        reactor_test:wait_until(fun() ->
            {ok, Calls} = py:call(Context, streams, calls, [Tag]),
            Calls > 1000
        end),
        ?assertEqual(<<"go">>, received(Context, Tag)),
        {ok, _} = py:call(Context, streams, stop, [Tag]),
        wait_received(Context, Tag, iolist_to_binary(["go", Numbers])),
        gen_tcp:close(Client),
        wait_lost(Context, Tag)
    end).

eof_default_close(Config) ->
    serving(Config, "streams.Counting", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, <<"12345">>),
        ok = gen_tcp:shutdown(Client, write),
        expect_eof(Client),
        ?assertEqual([<<"connection_made">>, <<"data_received">>, <<"connection_lost">>], wait_lost(Context, Tag))
    end).

%% The connection stays, for writing only, until the protocol ends it.
eof_continue(Config) ->
    Script = #{eof_received => [{<<"a">>, continue}], write_ready => [{<<"b">>, close}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        ok = gen_tcp:shutdown(Client, write),
        expect(Client, <<"a">>),
        ?assertEqual([<<"connection_made">>, <<"eof_received">>], methods(Context, Tag)),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect(Client, <<"b">>),
        expect_eof(Client)
    end).

eof_write_pending(Config) ->
    Script = #{eof_received => [{<<"a">>, write_pending}], write_ready => [{<<"b">>, continue}, {<<"c">>, read_pending}]},
    scripted(Config, Script, fun(_Context, Client, _Tag) ->
        ok = gen_tcp:shutdown(Client, write),
        expect(Client, <<"abc">>),
        %% Nothing can be read any more, so that read_pending ends it.
        expect_eof(Client)
    end).

eof_read_pending(Config) ->
    scripted(Config, #{eof_received => [{<<"a">>, read_pending}]}, fun(_Context, Client, _Tag) ->
        ok = gen_tcp:shutdown(Client, write),
        expect(Client, <<"a">>),
        expect_eof(Client)
    end).

eof_async_pending(Config) ->
    Script = #{eof_received => [{<<"a">>, async_pending}], write_ready => [{<<"b">>, close}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        ok = gen_tcp:shutdown(Client, write),
        expect(Client, <<"a">>),
        {ok, true} = py:call(Context, recorder, signal_from_thread, [Tag]),
        expect(Client, <<"b">>),
        expect_eof(Client)
    end).

eof_after_data_in_write_mode(Config) ->
    Script = #{
        data_received => [{<<>>, async_pending}, {<<"2">>, continue}],
        write_ready => [{<<"w">>, read_pending}],
        eof_received => [{<<"e">>, close}]
    },
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_received(Context, Tag, <<"one">>),
        send(Client, <<"two">>),
        ok = gen_tcp:shutdown(Client, write),
        {ok, true} = py:call(Context, recorder, signal, [Tag]),
        expect(Client, <<"w2e">>),
        expect_eof(Client)
    end).

half_close_still_gets_the_response(Config) ->
    serving(Config, "streams.AnswersAtTheEnd", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{}),
        send(Client, binary:copy(<<"x">>, 1000000)),
        ok = gen_tcp:shutdown(Client, write),
        ?assertEqual(binary:copy(<<"x">>, 1000000), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

%% What was accepted arrives, then the end; what the client sends afterwards is delivered until that ends, too.
an_output_that_ends(Config) ->
    %% In write mode too, where what stands in write_buffer can never leave.
    [an_output_that_ends(Config, Answer) || Answer <- [continue, write_pending]],
    %% A protocol that waits for somebody else keeps nothing alive that nothing can happen to, but what has arrived is its own.
    serving(Config, "streams.EndsItsOutput", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{answer => read_pending}),
        send(Client, <<"one">>),
        ok = gen_tcp:shutdown(Client, write),
        ?assertEqual(binary:copy(<<0>>, 200000), reactor_test:receive_all(Client)),
        wait_lost(Context, Tag)
    end).

an_output_that_ends(Config, Answer) ->
    serving(Config, "streams.EndsItsOutput", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{answer => Answer}),
        ok = inet:setopts(Client, [{exit_on_close, false}]),
        send(Client, <<"one">>),
        ?assertEqual(binary:copy(<<0>>, 200000), reactor_test:receive_all(Client)),
        send(Client, <<"two">>),
        wait_received(Context, Tag, <<"onetwo">>),
        ok = gen_tcp:shutdown(Client, write),
        wait_lost(Context, Tag),
        Events = events(Context, Tag),
        ?assertEqual([200000, 0], [Count || {<<"written">>, Count} <- Events]),
        ?assertMatch([_, {<<"eof_received">>, _}, {<<"reason">>, <<"peer_closed">>} | _], lists:dropwhile(fun(Event) -> Event =/= {<<"data_received">>, <<"two">>} end, Events))
    end).

connection_made_may_write(Config) ->
    scripted(Config, #{connection_made => [{<<"220 ready">>, none}]}, fun(_Context, Client, _Tag) ->
        expect(Client, <<"220 ready">>)
    end).

peer_closes_in_async_mode(Config) ->
    Script = #{data_received => [{<<>>, async_pending}], write_ready => [{<<>>, read_pending}]},
    scripted(Config, Script, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_event(Context, Tag, <<"data_received">>),
        gen_tcp:close(Client),
        {ok, _} = py:call(Context, recorder, signal, [Tag]),
        wait_lost(Context, Tag)
    end).

close_connection_of_a_waiting_protocol(Config) ->
    scripted(Config, #{data_received => [{<<"bye">>, async_pending}]}, fun(Context, Client, Tag) ->
        send(Client, <<"one">>),
        wait_event(Context, Tag, <<"data_received">>),
        {ok, none} = py:call(Context, recorder, close, [Tag]),
        expect(Client, <<"bye">>),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).
