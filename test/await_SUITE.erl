%% Coroutines on a context's event loop: those that Erlang calls, and those of protocols.
-module(await_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [
    with_context/3, serving/3, serving/4, client/2, send/2, expect/2, expect_eof/1, wait_until/1, wait_equal/2, wait_lost/2,
    register_self/0, said/1
]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        connections_are_served_meanwhile,
        a_call_ends_as_its_coroutine_does,
        a_call_whose_time_is_over_is_cancelled,
        a_caller_that_dies_cancels_its_call,
        who_is_cancelled_by_others_hears_so,
        casts_are_tasks,
        stop_answers_everybody,
        a_loop_of_its_own_in_a_call,
        what_is_awaited_is_the_action,
        variables_last,
        a_task_holds_its_connection,
        others_leave_the_mode,
        exceptions_cost_their_connection,
        a_reset_cancels,
        who_opts_out_is_not_cancelled,
        the_end_of_the_input_cancels_nobody,
        who_closes_itself_goes_on,
        tasks_and_timers_of_ones_own,
        cancelled_timers_are_forgotten,
        every_callback_may_await,
        datagrams_are_received_together,
        nothing_is_left_of_churn,
        what_begins_and_ends_with_a_context,
        who_is_killed_cancels_its_tasks,
        what_never_ends_at_the_end_keeps_no_task
    ], [], [
        calls_are_served_together,
        an_echo_is_as_quick_beside_a_thousand_calls,
        who_swallows_its_cancellation_is_not_waited_for,
        who_never_ends_holds_up_no_other_context,
        stop_lets_a_task_end,
        many_tasks_and_timers_cost_what_they_are
    ]).

%% A thousand sleep at the same time: each until all of them do.
calls_are_served_together(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Numbers = lists:seq(1, 1000),
        Name = reactor_test:tag(),
        Answers = answers([asked(Context, sleep_together, [Name, length(Numbers), N]) || N <- Numbers]),
        ?assertEqual([{ok, N} || N <- Numbers], Answers),
        ?assertEqual({ok, 0}, call(Context, tasks, []))
    end).

connections_are_served_meanwhile(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, _} = client(Context, Config),
        Asked = asked(Context, hold_on, [register_self()]),
        said(<<"begun">>),
        ok = send(Client, "ping"),
        ok = expect(Client, "ping"),
        ?assertEqual({ok, 3}, py:eval(Context, "1 + 2")),
        ok = py_reactor_context:stop(Context, 100),
        ?assertMatch([{error, _}], answers([Asked]))
    end).

%% Its 99th percentile while they sleep is at most twice that of before, as the thread's own clock says. What else the machine does
%% makes that slower, too, and comes and goes: one undisturbed comparison is needed.
an_echo_is_as_quick_beside_a_thousand_calls(Config) ->
    serving(Config, "awaits.Clocked", fun(Context) ->
        {Client, _} = client(Context, Config),
        {ok, 0} = call(Context, sleep, [0, 0]),
        Ratio = fun(_) ->
            Before = p99(Client),
            Asked = [asked(Context, sleep_until_woken, []) || _ <- lists:seq(1, 1000)],
            wait_equal({ok, 1000}, fun() -> call(Context, tasks, []) end),
            During = p99(Client),
            {ok, none} = call(Context, wake_all, []),
            ?assertEqual([{ok, <<"woken">>}], lists:usort(answers(Asked))),
            ct:log("p99 before ~b ns, during ~b ns", [Before, During]),
            During / Before
        end,
        ?assert(lists:any(fun(Try) -> Ratio(Try) =< 2 end, lists:seq(1, 15)))
    end).

%% Of the nanoseconds that the thread computes from one echo to the next.
p99(Client) ->
    Times = [binary_to_integer(ask(Client, "ping")) || _ <- lists:seq(1, 2000)],
    lists:nth(1 + length(Times) * 99 div 100, lists:sort(Times)).

ask(Client, Question) ->
    ok = send(Client, Question),
    {ok, Answer} = reactor_test:receive_bytes(Client, 12),
    Answer.

a_call_ends_as_its_coroutine_does(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, <<"value">>}, call(Context, sleep, [0, <<"value">>])),
        ok = py:exec(Context, "async def plain(x):\n    return x\nasync def odd():\n    return object()"),
        ?assertEqual({ok, 5}, py:call(Context, '__main__', plain, [5])),
        ?assertMatch({error, {unsupported_term, _}}, py:call(Context, '__main__', odd, [])),
        {error, {python_error, #{type := Type, traceback := Traceback}}} = call(Context, fail, []),
        ?assertEqual(<<"ZeroDivisionError">>, Type),
        ?assertNotEqual(nomatch, string:find(Traceback, "in fail")),
        ?assertEqual(nomatch, string:find(Traceback, "asyncio"))
    end).

a_call_whose_time_is_over_is_cancelled(Config) ->
    with_context(Config, #{setup_code => "import awaits"}, fun(Context) ->
        ok = times_out(Context, register_self(), 200),
        said(<<"cancelled">>),
        ?assertEqual({ok, 1}, py:call(Context, awaits, sleep, [0.001, 1], #{}, 60000)),
        wait_equal({ok, 0}, fun() -> call(Context, tasks, []) end)
    end).

%% On a busy machine the time may be over before the call begins: it is dropped then.
times_out(Context, Name, Ms) ->
    ?assertEqual({error, timeout}, py:call(Context, awaits, hold_on, [Name], #{}, Ms)),
    receive
        <<"begun">> -> ok
    after 0 -> times_out(Context, Name, 4 * Ms)
    end.

a_caller_that_dies_cancels_its_call(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = register_self(),
        [
            begin
                Caller = spawn(fun() -> py:call(Context, awaits, hold_on, [Name], #{}, Timeout) end),
                said(<<"begun">>),
                exit(Caller, kill),
                said(<<"cancelled">>)
            end
         || Timeout <- [infinity, 600000]
        ],
        wait_equal({ok, 0}, fun() -> call(Context, tasks, []) end)
    end).

who_is_cancelled_by_others_hears_so(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Asked = asked(Context, hold_on, [register_self()]),
        said(<<"begun">>),
        ok = py:exec(Context, "import asyncio\n[task.cancel() for task in asyncio.all_tasks(erlang.event_loop())]"),
        [{error, {python_error, #{type := Type}}}] = answers([Asked]),
        ?assertEqual(<<"asyncio.exceptions.CancelledError">>, Type)
    end).

casts_are_tasks(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        ok = py:cast(Context, awaits, hold_on, [register_self()]),
        said(<<"begun">>),
        ok = py:cast(Context, awaits, fail, []),
        ?assertMatch({error, _, _}, log_collector:await(Id, ["a cast raised", "ZeroDivisionError"])),
        ok = py_reactor_context:stop(Context, 1000),
        said(<<"cancelled">>)
    end).

stop_answers_everybody(Config) ->
    Name = register_self(),
    [
        with_context(Config, #{}, fun(Context) ->
            Asked = [asked(Context, Function, [Name]) || _ <- lists:seq(1, 20)],
            [said(<<"begun">>) || _ <- Asked],
            ok = py_reactor_context:stop(Context, 100),
            ?assertEqual([{error, stopped}], lists:usort(answers(Asked)))
        end)
     || Function <- [hold_on, hold_on_to]
    ].

%% Blocking, as before.
a_loop_of_its_own_in_a_call(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, <<"by its own">>}, call(Context, runs_its_own, [])),
        ?assertEqual({ok, 1}, call(Context, sleep, [0, 1])),
        ?assertEqual({ok, <<"by its own">>}, call(Context, runs_its_own, []))
    end).

what_is_awaited_is_the_action(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        [ask(Client, What, What) || What <- [<<"echo">>, <<"pending">>, <<"echo">>, <<"pending">>, <<"bye">>]],
        ok = expect_eof(Client),
        _ = wait_lost(Context, Tag)
    end).

%% The tasks of a connection run in its variables, not in a copy.
variables_last(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {One, _} = client(Context, Config),
        {Other, _} = client(Context, Config),
        ask(One, "variable", "nobody+"),
        ask(One, "variable", "nobody++"),
        ask(Other, "variable", "nobody+")
    end).

a_task_holds_its_connection(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = holding(Context, Config, "hold"),
        ok = send(Client, "echo"),
        [#{fd := Fd, state := async}] = wait_unread(Context),
        %% Another one is served meanwhile.
        {Other, _} = client(Context, Config),
        ask(Other, "echo", "echo"),
        ?assertNot(lists:member(<<"echo">>, reactor_test:methods(Context, Tag))),
        ok = py_reactor_context:notify(Context, Fd, go),
        ok = expect(Client, "heldecho")
    end).

others_leave_the_mode(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        [
            begin
                {Client, Tag} = holding(Context, Config, "hold"),
                [#{fd := Fd}] = py_reactor_context:connections(Context),
                ok = py_reactor_context:notify(Context, Fd, Action),
                _ = Action =:= close orelse log_collector:await(Id, ["awaits.Awaits.message_received returned another mode"]),
                ok = expect_eof(Client),
                ?assertMatch([<<"cancelled">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag))),
                gen_tcp:close(Client),
                reactor_test:wait_connections(Context, 0)
            end
         || Action <- [write_pending, read_pending, async_pending, close]
        ]
    end).

exceptions_cost_their_connection(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Other, _} = client(Context, Config),
        [
            begin
                {Client, Tag} = client(Context, Config),
                ok = send(Client, What),
                ?assertMatch({error, _, #{method := Method}}, log_collector:await(Id, Texts)),
                ok = expect_eof(Client),
                _ = wait_lost(Context, Tag),
                ask(Other, "echo", "echo")
            end
         || {What, Method, Texts} <- [
                {"fails", <<"data_received">>, ["awaits.Awaits.data_received raised", "in fails", "ZeroDivisionError"]},
                {"wrong", <<"data_received">>, ["awaits.Awaits.data_received returned 'nothing'"]},
                {"own_fails", <<"create_task">>, ["awaits.Awaits.create_task raised", "ZeroDivisionError"]},
                {"timer_fails", <<"call_later">>, ["awaits.Awaits.call_later raised", "in a timer"]}
            ]
        ]
    end).

a_reset_cancels(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = holding(Context, Config, "hold"),
        ok = reactor_test:reset(Client),
        ?assertMatch([<<"cancelled">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag))),
        wait_equal({ok, 0}, fun() -> call(Context, tasks, []) end)
    end).

who_opts_out_is_not_cancelled(Config) ->
    serving(Config, "awaits.Patient", fun(Context) ->
        {Client, Tag} = holding(Context, Config, "until_released"),
        ok = reactor_test:reset(Client),
        wait_equal({ok, true}, fun() -> call(Context, closed, [Tag]) end),
        ?assertNot(lists:member(<<"connection_lost">>, reactor_test:methods(Context, Tag))),
        {ok, none} = py:call(Context, recorder, release, [Tag]),
        ?assertMatch([<<"released">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag)))
    end).

the_end_of_the_input_cancels_nobody(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = holding(Context, Config, "hold"),
        ok = gen_tcp:shutdown(Client, write),
        wait_equal({ok, true}, fun() -> py:call(Context, recorder, peer_closed, [Tag]) end),
        [#{fd := Fd}] = py_reactor_context:connections(Context),
        ok = py_reactor_context:notify(Context, Fd, go),
        ?assertEqual(<<"held">>, reactor_test:receive_all(Client)),
        ?assertMatch([<<"eof_received">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag)))
    end).

who_closes_itself_goes_on(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        ok = send(Client, "closes"),
        ok = expect_eof(Client),
        ?assertMatch([<<"went on">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag)))
    end).

who_swallows_its_cancellation_is_not_waited_for(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Client, Tag} = holding(Context, Config, "swallow"),
        ok = reactor_test:reset(Client),
        _ = wait_lost(Context, Tag),
        ?assertMatch({warning, _, _}, log_collector:await(Id, ["a task of data_received has not ended"])),
        ok = py_reactor_context:stop(Context, 100)
    end).

%% Nor does its end spin, that of its interpreter least of all.
who_never_ends_holds_up_no_other_context(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        _ = holding(Context, Config, "stubborn"),
        ok = py_reactor_context:stop(Context, 0)
    end),
    with_context(Config, #{start_timeout_ms => 20000}, fun(Context) ->
        ?assertEqual({ok, 0}, py:eval(Context, "__import__('gc').collect() * 0")),
        ?assertEqual({ok, 1}, call(Context, sleep, [0, 1]))
    end).

stop_lets_a_task_end(Config) ->
    serving(Config, "awaits.Awaits", #{linger_ms => 0}, fun(Context) ->
        {Client, _} = holding(Context, Config, "holds_a_while"),
        ok = py_reactor_context:stop(Context, 60000),
        ?assertEqual(<<"held">>, reactor_test:receive_all(Client))
    end).

tasks_and_timers_of_ones_own(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        ask(Client, "own", "later"),
        ask(Client, "echo", "echo"),
        ?assertEqual({ok, 1}, call(Context, tasks, [])),
        ask(Client, "bye", "bye"),
        gen_tcp:close(Client),
        ?assertMatch([<<"cancelled">>, <<"connection_lost">>], last(2, wait_lost_methods(Context, Tag))),
        wait_equal({ok, [0, 0]}, fun() -> call(Context, waiting, []) end)
    end).

%% Four times as many cost four times as much, not sixteen times, as the thread's own clock says.
many_tasks_and_timers_cost_what_they_are(Config) ->
    serving(Config, "awaits.Many", fun(Context) ->
        {Client, _} = client(Context, Config),
        [
            begin
                Cost = fun(Count) ->
                    ok = send(Client, io_lib:format("~s ~b", [What, Count])),
                    {ok, Seconds} = gen_tcp:recv(Client, 12, 60000),
                    binary_to_float(Seconds)
                end,
                Ratio = fun(_) -> Cost(4 * Count) / Cost(Count) end,
                ?assert(lists:any(fun(Try) -> Ratio(Try) < 8 end, [1, 2, 3]), What)
            end
         || {What, Count} <- [{"tasks", 20000}, {"timers", 1024}]
        ]
    end).

cancelled_timers_are_forgotten(Config) ->
    serving(Config, "awaits.Impatient", fun(Context) ->
        {Client, _} = client(Context, Config),
        ok = send(Client, "20000"),
        {ok, Kept} = gen_tcp:recv(Client, 8, 60000),
        ?assert(binary_to_integer(Kept) < 1000, Kept)
    end).

every_callback_may_await(Config) ->
    serving(Config, "awaits.Everything", fun(Context) ->
        {Client, _} = client(Context, Config),
        ask(Client, "x", "w"),
        [#{fd := Fd}] = py_reactor_context:connections(Context),
        ok = py_reactor_context:notify(Context, Fd, message),
        ok = expect(Client, "message"),
        ask(Client, "x", "w"),
        ok = gen_tcp:shutdown(Client, write),
        ?assertEqual(<<"eof">>, reactor_test:receive_all(Client))
    end).

%% At most 64 at a time: what comes after waits for one of them to end.
datagrams_are_received_together(Config) ->
    serving(Config, "awaits.Together", fun(Context) ->
        [
            begin
                {ok, Server} = gen_udp:open(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}, {recbuf, 400000}]),
                {ok, Port} = inet:port(Server),
                Tag = reactor_test:tag(),
                ok = py_reactor_context:handoff(Context, Server, #{type => udp, tag => Tag}),
                {ok, Client} = gen_udp:open(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}, {recbuf, 400000}]),
                [ok = gen_udp:send(Client, {127, 0, 0, 1}, Port, integer_to_list(Barrier)) || _ <- lists:seq(1, Count)],
                [{ok, _} = gen_udp:recv(Client, 0, 30000) || _ <- lists:seq(1, Count)],
                ?assertEqual({ok, Barrier}, call(Context, most, [Tag]))
            end
         || {Count, Barrier} <- [{20, 20}, {150, 64}]
        ]
    end).

nothing_is_left_of_churn(Config) ->
    serving(Config, "awaits.Awaits", fun(Context) ->
        %% Other cases leave coroutines that never end, which are kept.
        {ok, [0, Kept, 0]} = call(Context, left, []),
        Churn = fun() ->
            Clients = [holding(Context, Config, What) || _ <- lists:seq(1, 20), What <- ["hold", "own", "echo", "holds_a_while"]],
            [
                case rand:uniform(3) of
                    1 -> ok = reactor_test:reset(Client);
                    2 -> ok = gen_tcp:close(Client);
                    3 -> ok = gen_tcp:shutdown(Client, write)
                end
             || {Client, _} <- Clients
            ],
            [gen_tcp:close(Client) || {Client, _} <- Clients],
            [_ = py_reactor_context:close(Context, Fd) || #{fd := Fd} <- py_reactor_context:connections(Context), rand:uniform(2) =:= 1],
            [py_reactor_context:notify(Context, Fd, go) || #{fd := Fd} <- py_reactor_context:connections(Context)],
            reactor_test:wait_connections(Context, 0)
        end,
        [Churn() || _ <- lists:seq(1, 3)],
        wait_until(fun() ->
            {ok, [Tasks, Protocols, Handles]} = call(Context, left, []),
            Tasks =:= 0 andalso Handles =:= 0 andalso Protocols =< Kept
        end)
    end).

what_begins_and_ends_with_a_context(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {ok, none} = call(Context, begins_and_ends, [register_self()]),
        [said(What) || What <- [<<"started">>, <<"started plainly">>, <<"begun">>]],
        {ok, none} = call(Context, spawns_failure, []),
        ?assertMatch({error, _, _}, log_collector:await(Id, ["in a task of the context", "ZeroDivisionError"])),
        ok = py_reactor_context:stop(Context, 60000),
        ?assertMatch({error, _, _}, log_collector:await(Id, ["at the context's end", "ZeroDivisionError"])),
        ?assertEqual([<<"stopped">>, <<"stopped plainly">>, <<"cancelled">>], [receive What when is_binary(What) -> What after 0 -> none end || _ <- [1, 2, 3]])
    end).

%% A task that is left behind is never destroyed, with all that it refers to.
who_is_killed_cancels_its_tasks(Config) ->
    process_flag(trap_exit, true),
    with_context(Config, #{}, fun(Context) ->
        Name = register_self(),
        {ok, none} = call(Context, left_at_the_end, [Name]),
        Asked = asked(Context, hold_on, [Name]),
        [said(<<"begun">>) || _ <- [1, 2]],
        exit(Context, kill),
        [said(What) || What <- [<<"cancelled">>, <<"cancelled">>, <<"cleaned up">>]],
        ?assertMatch([{error, _}], answers([Asked]))
    end).

what_never_ends_at_the_end_keeps_no_task(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, none} = call(Context, left_at_the_end, [register_self(), true]),
        said(<<"begun">>),
        ok = py_reactor_context:stop(Context, 0),
        [said(What) || What <- [<<"cancelled">>, <<"cleaned up">>]]
    end).

call(Context, Function, Args) ->
    py:call(Context, awaits, Function, Args).

ask(Client, Question, Answer) ->
    ok = send(Client, Question),
    ok = expect(Client, Answer).

%% A client that has asked for that, once it is under way.
holding(Context, Config, What) ->
    {Client, Tag} = client(Context, Config),
    ok = send(Client, What),
    _ = reactor_test:wait_event(Context, Tag, list_to_binary(What)),
    {Client, Tag}.

wait_unread(Context) ->
    wait_until(fun() -> [Unread || #{unread := Unread} <- py_reactor_context:connections(Context), Unread > 0] =/= [] end),
    py_reactor_context:connections(Context).

wait_lost_methods(Context, Tag) ->
    _ = wait_lost(Context, Tag),
    reactor_test:methods(Context, Tag).

last(Count, List) ->
    lists:nthtail(length(List) - Count, List).

%% A process that calls, and then ends with the answer.
asked(Context, Function, Args) ->
    spawn_monitor(fun() -> exit({answer, call(Context, Function, Args)}) end).

answers(Asked) ->
    [
        receive
            {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer
        after 60000 -> error(no_answer)
        end
     || {Pid, Monitor} <- Asked
    ].
