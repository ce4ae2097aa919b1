%% Functions of Erlang that Python calls.
-module(functions_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, send/2, expect/2, wait_until/1]).

-define(WAIT_MS, 30000).

-define(OWN_ALL, true).
-include("reactor_suite.hrl").

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()] ++ [the_server_dies].

groups() ->
    reactor_test:backend_groups([
        funs_and_exported_functions,
        terms_there_and_back,
        a_later_function_takes_the_name,
        unknown_names,
        wrong_number_of_arguments,
        what_raises,
        what_is_killed,
        what_cannot_be_converted,
        a_timeout_ends_the_wait,
        many_calls,
        too_many_calls,
        from_a_callback,
        from_another_thread,
        other_python_threads_go_on,
        the_waiting_context_is_not_asked,
        nor_by_way_of_another_one,
        a_message_waits_for_its_sender,
        what_needs_no_thread_is_allowed,
        other_contexts_may_be_asked,
        interrupted,
        an_interrupt_that_was_caught_ends_no_other_call,
        a_context_may_call_while_it_starts,
        awaited_by_a_task,
        awaited_with_errors,
        awaited_by_many_tasks,
        awaited_by_a_task_that_is_cancelled,
        awaited_when_the_context_stops,
        awaited_while_the_context_ends,
        bad_registrations
    ] ++ reactor_test:long([killed_while_it_waits]), [], [
        the_default_timeout
    ]).

init_per_testcase(_Case, Config) ->
    ok = py:register_function(echo, fun(Term) -> Term end),
    Config.

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, askers, Function, Args),
    Value.

ask_async(Context, Args) ->
    call(Context, ask_async, Args).

ask(Context, Args) ->
    call(Context, ask, Args).

%% What `Fun' answers, later: a process of its own asks.
later(Fun) ->
    {_Pid, Monitor} = spawn_monitor(fun() -> exit({answer, Fun()}) end),
    Monitor.

answer(Monitor) ->
    receive
        {'DOWN', Monitor, process, _Pid, {answer, Answer}} -> Answer;
        {'DOWN', Monitor, process, _Pid, Reason} -> error(Reason)
    after ?WAIT_MS -> error(no_answer)
    end.

%% A function that waits until the test lets it go on. The test is told of its process.
register_waiting(Name) ->
    Test = self(),
    ok = py:register_function(Name, fun() ->
        Test ! {waits, self()},
        receive
            {return, Value} -> Value
        end
    end).

waiting() ->
    receive
        {waits, Pid} -> Pid
    after ?WAIT_MS -> error(nobody_waits)
    end.

funs_and_exported_functions(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(add, fun(A, B) -> A + B end),
        ok = py:register_function(<<"größe"/utf8>>, erlang, byte_size),
        ok = py:register_function("nothing", fun() -> undefined end),
        ?assertEqual(7, ask(Context, [<<"add">>, 3, 4])),
        ?assertEqual(5, ask(Context, [<<"größe"/utf8>>, <<"bytes">>])),
        ?assertEqual(none, ask(Context, [<<"nothing">>]))
    end).

%% The context serves meanwhile, also the function that it waits for.
awaited_by_a_task(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(asks_back, fun() ->
            {ok, Value} = py:eval(Context, "6 * 7"),
            Value
        end),
        ?assertEqual(42, ask_async(Context, [<<"asks_back">>])),
        register_waiting(waits),
        Asked = later(fun() -> ask_async(Context, [<<"waits">>]) end),
        Waits = waiting(),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1")),
        Waits ! {return, #{<<"a">> => [1, 2.5]}},
        ?assertEqual(#{<<"a">> => [1, 2.5]}, answer(Asked)),
        ?assertEqual(1, call(Context, ask_on_a_loop_of_its_own, [<<"echo">>, 1]))
    end).

awaited_with_errors(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(raises, fun() -> error(on_purpose) end),
        ok = py:register_function(killed, fun() -> exit(self(), kill), timer:sleep(?WAIT_MS) end),
        ok = py:register_function(odd, fun() -> <<1:1>> end),
        ?assertMatch({<<"LookupError">>, _}, ask_async(Context, [<<"nobody registered this">>])),
        ?assertMatch({<<"TypeError">>, _}, ask_async(Context, [<<"echo">>])),
        ?assertMatch({<<"CallError">>, _}, ask_async(Context, [<<"raises">>])),
        ?assertMatch({<<"CallError">>, _}, ask_async(Context, [<<"killed">>])),
        ?assertMatch({<<"TypeError">>, _}, ask_async(Context, [<<"odd">>])),
        register_waiting(waits),
        ?assertMatch({<<"TimeoutError">>, _}, call(Context, ask_async_within, [0.01, <<"waits">>])),
        waiting() ! {return, late},
        ?assertEqual(1, ask_async(Context, [<<"echo">>, 1]))
    end).

awaited_by_many_tasks(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual(lists:seq(0, 499), call(Context, ask_all, [<<"echo">>, 500])),
        %% One more than may run.
        wait_until(fun() -> sys:get_state(py_functions, ?WAIT_MS) =:= #{} end),
        ok = py:register_function(held, fun(_) -> receive after infinity -> ok end end),
        Asked = later(fun() -> py:call(Context, askers, ask_all, [<<"held">>, 1025], #{}, ?WAIT_MS) end),
        wait_until(fun() -> map_size(sys:get_state(py_functions, ?WAIT_MS)) =:= 1024 end),
        {<<"BlockingIOError">>, _} = ask_async(Context, [<<"echo">>, 1]),
        [exit(Pid, kill) || Pid <- held()],
        {ok, Answers} = answer(Asked),
        ?assertEqual([<<"BlockingIOError">>], [Class || {Class, _} <- Answers] -- lists:duplicate(1024, <<"CallError">>)),
        ?assertEqual(1, ask_async(Context, [<<"echo">>, 1]))
    end).

%% The processes of the calls of functions.
held() ->
    {monitors, Monitored} = process_info(whereis(py_functions), monitors),
    [Pid || {process, Pid} <- Monitored].

awaited_by_a_task_that_is_cancelled(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(waits),
        ok = py:exec(Context, "import askers, erlang.reactor\ntask = erlang.reactor.spawn(askers.ask_async('waits'))"),
        Waits = waiting(),
        ok = py:exec(Context, "task.cancel()"),
        wait_until(fun() -> {ok, true} =:= py:eval(Context, "task.cancelled()") end),
        Waits ! {return, late},
        ?assertEqual(1, ask_async(Context, [<<"echo">>, 1])),
        ?assertMatch(#{exceptions := 0}, py_reactor_context:stats(Context))
    end).

awaited_when_the_context_stops(Config) ->
    register_waiting(waits),
    {Monitor, Waits} = with_context(Config, #{}, fun(Context) ->
        Asked = later(fun() -> py:call(Context, askers, ask_async, [<<"waits">>]) end),
        {Asked, waiting()}
    end),
    ?assertEqual({error, stopped}, answer(Monitor)),
    Waits ! {return, late}.

awaited_while_the_context_ends(Config) ->
    Test = self(),
    Tag = make_ref(),
    ok = py:register_function(told, fun(Value) -> Test ! {Tag, Value} end),
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, [
            "import erlang.reactor\nasync def last():\n"
            "    await erlang.call_async('told', await erlang.call_async('echo', 7))\n"
            "erlang.reactor.on_stop(last)"
        ]),
        ok = py_reactor_context:stop(Context, 60000)
    end),
    receive {Tag, 7} -> ok after 0 -> error(no_answer) end.

terms_there_and_back(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Ref = make_ref(),
        [
            ?assertEqual(Term, ask(Context, [<<"echo">>, Term]))
         || Term <- [1, -1 bsl 100, 2.5, <<"text">>, [1, [2]], {1, {2}}, #{<<"a">> => 1}, true, none, self(), Ref]
        ]
    end).

a_later_function_takes_the_name(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(changing, fun() -> 1 end),
        ok = py:register_function(changing, fun() -> 2 end),
        ?assertEqual(2, ask(Context, [<<"changing">>])),
        ok = py:unregister_function(changing),
        ?assertMatch({<<"LookupError">>, _}, ask(Context, [<<"changing">>]))
    end).

unknown_names(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {<<"LookupError">>, Text} = ask(Context, [<<"nobody registered this">>]),
        ?assertMatch({_, _}, binary:match(Text, <<"'nobody registered this': see py:register_function/2">>))
    end).

wrong_number_of_arguments(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(reverse, lists, reverse),
        ?assertEqual([2, 1], ask(Context, [<<"reverse">>, [1, 2]])),
        [
            begin
                {<<"TypeError">>, Text} = ask(Context, Args),
                ?assertMatch({_, _}, binary:match(Text, <<"does not take 3 arguments">>))
            end
         || Args <- [[<<"echo">>, 1, 2, 3], [<<"reverse">>, 1, 2, 3]]
        ]
    end).

what_raises(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(raises, fun(Class) -> erlang:raise(binary_to_existing_atom(Class), {because, 42}, []) end),
        [
            begin
                {<<"CallError">>, Text} = ask(Context, [<<"raises">>, Class]),
                ?assertMatch({_, _}, binary:match(Text, <<"'raises' failed: ">>)),
                ?assertMatch({_, _}, binary:match(Text, <<"{because,42}">>)),
                ?assertMatch({_, _}, binary:match(Text, Says))
            end
         || {Class, Says} <- [{<<"error">>, <<"exception error">>}, {<<"exit">>, <<"exception exit">>}, {<<"throw">>, <<"exception throw">>}]
        ]
    end).

what_is_killed(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(killed),
        Asked = later(fun() -> ask(Context, [<<"killed">>]) end),
        exit(waiting(), kill),
        {<<"CallError">>, Text} = answer(Asked),
        ?assertMatch({_, _}, binary:match(Text, <<"exited with killed">>))
    end).

what_cannot_be_converted(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertMatch({<<"TypeError">>, _}, call(Context, ask_what_cannot_be_sent, [])),
        ok = py:register_function(improper, fun() -> [1 | 2] end),
        {<<"TypeError">>, Text} = ask(Context, [<<"improper">>]),
        ?assertMatch({_, _}, binary:match(Text, <<"'improper' returned cannot be converted">>))
    end).

%% The answer that comes too late reaches nobody, not the next call either.
a_timeout_ends_the_wait(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(slow),
        {<<"TimeoutError">>, Text} = call(Context, ask_within, [0.01, <<"slow">>]),
        ?assertMatch({_, _}, binary:match(Text, <<"'slow' did not return within 0.01 s">>)),
        Late = waiting(),
        Next = later(fun() -> ask(Context, [<<"slow">>]) end),
        Second = waiting(),
        Late ! {return, late},
        wait_until(fun() -> not is_process_alive(Late) end),
        Second ! {return, <<"in time">>},
        ?assertEqual(<<"in time">>, answer(Next))
    end).

the_default_timeout(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(slow),
        Asked = later(fun() -> py:call(Context, askers, ask_with_default_timeout, [<<"slow">>]) end),
        Slow = waiting(),
        ?assertMatch({error, {python_error, #{type := <<"TimeoutError">>}}}, answer(Asked)),
        Slow ! {return, none}
    end).

many_calls(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual(lists:seq(0, 999), call(Context, ask_often, [<<"echo">>, 1000])),
        wait_until(fun() -> sys:get_state(py_functions, ?WAIT_MS) =:= #{} end)
    end).

%% As many as may run, held up, then one more.
too_many_calls(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Test = self(),
        ok = py:register_function(held, fun() ->
            receive
            after infinity -> Test
            end
        end),
        wait_until(fun() -> sys:get_state(py_functions, ?WAIT_MS) =:= #{} end),
        [{<<"TimeoutError">>, _} = call(Context, ask_within, [0, <<"held">>]) || _ <- lists:seq(1, 1024)],
        wait_until(fun() -> map_size(sys:get_state(py_functions, ?WAIT_MS)) =:= 1024 end),
        {<<"BlockingIOError">>, Text} = ask(Context, [<<"echo">>, 1]),
        ?assertMatch({_, _}, binary:match(Text, <<"'echo' was not called: 1024 calls run already">>)),
        [exit(Pid, kill) || Pid <- held()],
        wait_until(fun() -> sys:get_state(py_functions, ?WAIT_MS) =:= #{} end),
        ?assertEqual(1, ask(Context, [<<"echo">>, 1]))
    end).

from_a_callback(Config) ->
    serving(Config, "askers.Asks", fun(Context) ->
        ok = py:register_function(answer, fun(Request) -> <<Request/binary, "!">> end),
        Client = plain_client(Context, Config),
        send(Client, <<"hello">>),
        expect(Client, <<"hello!">>)
    end).

from_another_thread(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual(5, call(Context, ask_from_thread, [<<"echo">>, 5]))
    end).

other_python_threads_go_on(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(slow),
        ok = py:exec(Context, <<
            "import threading, erlang\n"
            "counted = []\n"
            "stop = threading.Event()\n"
            "def count():\n"
            "    while not stop.wait(0.001):\n"
            "        counted.append(1)\n"
            "        if len(counted) == 10: erlang.send(test, 'counted')\n"
        >>),
        Test = self(),
        Asked = later(fun() ->
            py:eval(Context, <<"[globals().update(test=who), threading.Thread(target=count).start(), erlang.call('slow', timeout=None), stop.set()]">>, #{
                who => Test
            })
        end),
        Slow = waiting(),
        receive
            <<"counted">> -> ok
        after ?WAIT_MS -> error(stood_still)
        end,
        Slow ! {return, none},
        ?assertMatch({ok, _}, answer(Asked))
    end).

%% Everything that waits for the thread is refused at once.
the_waiting_context_is_not_asked(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(circle, fun() ->
            Answers = [
                py:call(Context, askers, ask, [<<"echo">>, 1]),
                py:eval(Context, <<"1">>),
                py:exec(Context, <<"pass">>),
                py_reactor_context:send(Context, 1, <<"x">>),
                py_reactor_context:close(Context, 1),
                py_reactor_context:notify(Context, 1, x),
                py_reactor_context:connections(Context),
                py_reactor_context:drain(Context, 1000),
                py_reactor_context:stop(Context)
            ],
            [Kind || {error, {Kind, _Why}} <- Answers]
        end),
        ?assertEqual(lists:duplicate(9, <<"would_deadlock">>), ask(Context, [<<"circle">>]))
    end).

nor_by_way_of_another_one(Config) ->
    with_context(Config, #{}, fun(First) ->
        with_context(Config, #{}, fun(Second) ->
            ok = py:register_function(forth, fun() -> ask(Second, [<<"back">>]) end),
            ok = py:register_function(back, fun() -> element(1, element(2, py:eval(First, <<"1">>))) end),
            ?assertEqual(<<"would_deadlock">>, ask(First, [<<"forth">>])),
            %% From the second one alone there is no circle.
            ok = py:register_function(back, fun() -> element(2, py:eval(First, <<"1">>)) end),
            ?assertEqual(1, ask(Second, [<<"back">>]))
        end)
    end).

%% A callback that a function brings about belongs to the circle as well.
a_message_waits_for_its_sender(Config) ->
    serving(Config, "askers.Asks", fun(Second) ->
        Client = plain_client(Second, Config),
        [#{connection := Connection}] = py_reactor_context:connections(Second),
        with_context(Config, #{}, fun(First) ->
            ok = py:register_function(forth, fun() ->
                ok = py_reactor_context:notify(Second, Connection, <<"back">>),
                done
            end),
            ok = py:register_function(back, fun() -> atom_to_binary(element(1, element(2, py:eval(First, <<"1">>)))) end),
            ?assertEqual(<<"done">>, ask(First, [<<"forth">>])),
            expect(Client, <<"would_deadlock">>)
        end)
    end).

what_needs_no_thread_is_allowed(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(looks, fun() ->
            #{connections := 0} = py_reactor_context:stats(Context),
            ok = py:cast(Context, askers, ask, [<<"echo">>, 1]),
            <<"looked">>
        end),
        ?assertEqual(<<"looked">>, ask(Context, [<<"looks">>]))
    end).

other_contexts_may_be_asked(Config) ->
    with_context(Config, #{}, fun(First) ->
        with_context(Config, #{}, fun(Second) ->
            ok = py:register_function(forward, fun(Code) -> element(2, py:eval(Second, Code)) end),
            ?assertEqual(42, ask(First, [<<"forward">>, <<"6 * 7">>]))
        end)
    end).

interrupted(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(slow),
        Asked = later(fun() -> py:call(Context, askers, ask, [<<"slow">>]) end),
        Slow = waiting(),
        ok = py_reactor_context:interrupt(Context),
        ?assertMatch({error, {python_error, #{type := <<"erlang.reactor.Interrupted">>}}}, answer(Asked)),
        Slow ! {return, none},
        ?assertEqual(1, ask(Context, [<<"echo">>, 1]))
    end).

%% The first call is interrupted, the second one is not, although it takes long.
an_interrupt_that_was_caught_ends_no_other_call(Config) ->
    with_context(Config, #{}, fun(Context) ->
        register_waiting(slow),
        Asked = later(fun() -> call(Context, ask_again_when_interrupted, [<<"slow">>]) end),
        First = waiting(),
        ok = py_reactor_context:interrupt(Context),
        Second = waiting(),
        receive
        after 100 -> Second ! {return, <<"second">>}
        end,
        ?assertEqual(<<"second">>, answer(Asked)),
        First ! {return, none}
    end).

%% A function that asks the context that starts is refused, too.
a_context_may_call_while_it_starts(Config) ->
    Id = reactor_test:new_id(),
    ok = py:register_function(starts, fun() ->
        {error, {would_deadlock, _}} = py:eval(Id, "1"),
        <<"refused">>
    end),
    SetUp = "import erlang\nanswer = erlang.call('starts')\n",
    Options = reactor_test:options(Config, #{setup_code => SetUp}),
    {ok, Context} = py_reactor_context:start_link(Id, reactor_test:mode(Config), Options),
    ?assertEqual({ok, <<"refused">>}, py:eval(Context, "answer")),
    ok = py_reactor_context:stop(Context).

%% The thread ends although nobody answers.
killed_while_it_waits(Config) ->
    register_waiting(slow),
    Before = os_resources:threads_of_contexts(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        with_context(Config, #{}, fun(Context) -> ask(Context, [<<"slow">>]) end)
    end),
    Slow = waiting(),
    exit(Owner, kill),
    receive
        {'DOWN', Monitor, process, Owner, _} -> ok
    after ?WAIT_MS -> error(still_there)
    end,
    wait_until(fun() -> os_resources:threads_of_contexts() =< Before end),
    Slow ! {return, none}.

%% Whoever waits hears that there will be no answer; the next one finds the next server.
the_server_dies(Config) ->
    with_context([{backend, auto} | Config], #{}, fun(Context) ->
        register_waiting(slow),
        Asked = later(fun() -> ask(Context, [<<"slow">>]) end),
        Slow = waiting(),
        Server = whereis(py_functions),
        exit(Server, kill),
        exit(Slow, kill),
        ?assertMatch({<<"CallError">>, _}, answer(Asked)),
        wait_until(fun() -> not lists:member(whereis(py_functions), [Server, undefined]) end),
        ?assertEqual(1, ask(Context, [<<"echo">>, 1]))
    end).

bad_registrations(_Config) ->
    ?assertMatch({error, {bad_argument, function, 42, _}}, py:register_function(name, 42)),
    ?assertMatch({error, {bad_argument, function, {"lists", reverse}, _}}, py:register_function(name, "lists", reverse)),
    ?assertMatch({error, {bad_argument, function, 42, _}}, py:register_function(42, fun() -> ok end)),
    ?assertEqual(ok, py:unregister_function("nobody")).

plain_client(Context, Config) ->
    {Client, Server} = reactor_test:pair(Config),
    ok = py_reactor_context:handoff(Context, Server, #{}),
    wait_until(fun() -> maps:get(connections, py_reactor_context:stats(Context)) =:= 1 end),
    Client.
