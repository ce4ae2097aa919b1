%% A context is an event loop: asyncio's tasks, timers and callbacks, in the turns of its connections.
-module(loop_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, client/2, send/2, expect/2, wait_until/1, wait_equal/2, register_self/0, said/1]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups(
        [
            who_uses_no_asyncio_imports_none,
            imported_in_a_callback,
            running_in_every_callback,
            not_running_while_erlang_has_python_run,
            no_task_of_a_request_is_eager,
            receive_to_send_in_one_turn,
            an_idle_context_makes_no_turns,
            one_timer_one_turn,
            ten_thousand_sleeps,
            callbacks_that_never_end_starve_nobody,
            from_other_threads,
            exceptions_are_logged_and_cost_nothing,
            what_a_contexts_loop_refuses,
            no_context_has_pythons_main_thread,
            no_subprocess_unless_allowed,
            an_interrupt_ends_a_callback,
            an_interrupt_ends_a_task,
            slow_callbacks_are_named,
            stats_of_the_loop,
            stop_ends_tasks,
            stop_waits_for_no_task_for_ever,
            transports_of_asyncio,
            loops_of_ones_own,
            loops_of_ones_own_on_threads,
            loops_of_ones_own_closed_elsewhere,
            loops_of_ones_own_interrupted,
            cancellations_are_of_ones_own_interpreter
            | reactor_test:long([
                ten_times_ten_thousand_sleeps_beside_busy_loops, a_thousand_calls_end_when_those_of_asyncio_do
            ])
        ],
        [contexts_that_share_an_interpreter, set_up_that_fails_leaves_no_loop]
    ).

who_uses_no_asyncio_imports_none(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        case reactor_test:mode(Config) of
            %% Others have imported it, perhaps.
            worker ->
                ok;
            subinterp ->
                {Client, _} = client(Context, Config),
                ok = send(Client, "x"),
                ok = expect(Client, "x"),
                {error, {python_error, _}} = py:eval(Context, "1/0"),
                ?assertEqual({ok, false}, py:call(Context, loops, asyncio_is_imported, []))
        end
    end).

imported_in_a_callback(Config) ->
    serving(Config, "loops.Lazy", fun(Context) ->
        {Client, _} = client(Context, Config),
        [
            begin
                ok = send(Client, "ping"),
                ok = expect(Client, "ping by its loop")
            end
         || _ <- [1, 2]
        ]
    end).

running_in_every_callback(Config) ->
    serving(Config, "loops.Everywhere", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        ok = send(Client, "x"),
        ok = expect(Client, "w"),
        [#{fd := Fd}] = py_reactor_context:connections(Context),
        ok = py_reactor_context:notify(Context, Fd, message),
        ok = gen_tcp:shutdown(Client, write),
        _ = reactor_test:wait_lost(Context, Tag),
        Methods = [factory, connection_made, data_received, write_ready, message_received, eof_received, connection_lost],
        Expected = [[atom_to_binary(Method), true] || Method <- Methods],
        ?assertEqual({ok, Expected}, py:call(Context, loops, seen, [Tag]))
    end).

not_running_while_erlang_has_python_run(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import asyncio, erlang\nasync def five():\n    await asyncio.sleep(0.001)\n    return 5\n"),
        Alone = fun() ->
            ?assertMatch({error, {python_error, #{type := <<"RuntimeError">>}}}, py:eval(Context, "asyncio.get_running_loop()")),
            ?assertEqual({ok, 5}, py:eval(Context, "asyncio.run(five())")),
            ?assertEqual({ok, 5}, py:call(Context, '__main__', five, [])),
            ?assertEqual({ok, false}, py:eval(Context, "erlang.event_loop().is_running()"))
        end,
        Alone(),
        ok = py:exec(Context, "import loops\nloops.results.clear()\nloops.note_after(0.001, 'late')"),
        wait_equal({ok, [<<"late">>]}, fun() -> py:eval(Context, "loops.results") end),
        Alone()
    end).

%% Not even by asyncio's own eager factory: no loop is running there.
no_task_of_a_request_is_eager(Config) ->
    with_context(Config, #{}, fun(Context) ->
        case py:call(Context, loops, eager, []) of
            {ok, none} -> {skip, "there are eager tasks from Python 3.12 on"};
            {ok, Steps} -> ?assertEqual(0, Steps)
        end
    end).

stats_of_the_loop(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Stats = fun() -> py_reactor_context:stats(Context) end,
        ?assertMatch(#{tasks := 0, timers := 0, ready := 0, loop_lag := #{p50 := 0, p99 := 0, max := 0}}, Stats()),
        ok = py:exec(Context, "import asyncio, erlang, time\nloop = erlang.event_loop()\ngo = asyncio.Event()\nasync def wait():\n    await go.wait()"),
        ok = py:exec(Context, "timers = [loop.call_later(3600, print) for _ in range(3)]\ntimers.pop().cancel()"),
        wait_until(fun() -> maps:get(timers, Stats()) =:= 2 end),
        ok = py:cast(Context, '__main__', wait, []),
        wait_until(fun() -> maps:get(tasks, Stats()) =:= 1 end),
        ok = py:exec(Context, "loop.call_soon(go.set)"),
        wait_until(fun() -> maps:get(tasks, Stats()) =:= 0 end),
        %% Due while its thread is busy.
        ok = py:exec(Context, "loop.call_later(0.01, int)\ntime.sleep(0.1)"),
        wait_until(fun() -> maps:get(max, maps:get(loop_lag, Stats())) >= 80000 end),
        #{loop_lag := #{p50 := Median, p99 := P99, max := Max}} = Stats(),
        ?assert(Median =< P99 andalso P99 =< Max, {Median, P99, Max}),
        ok = py:exec(Context, "def spin():\n    loop.call_soon(spin)\nspin()"),
        wait_until(fun() -> maps:get(ready, Stats()) > 0 end)
    end).

receive_to_send_in_one_turn(Config) ->
    serving(Config, "loops.Chain", fun(Context) ->
        {Client, _} = client(Context, Config),
        Exchange = fun() ->
            ok = send(Client, "ping"),
            ok = expect(Client, "ping")
        end,
        %% The first one imports asyncio.
        [Exchange() || _ <- [1, 2]],
        Turns = turns_of(Context, fun() -> [Exchange() || _ <- lists:seq(1, 20)] end),
        %% One for what arrives, one for the end of its send, where that is told.
        ?assert(Turns =< 45, Turns)
    end).

an_idle_context_makes_no_turns(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import erlang, loops\nloop = erlang.event_loop()\nloop.call_later(3600, print)"),
        ok = py:exec(Context, "for _ in range(200):\n    loop.call_later(0.2, print).cancel()"),
        settled(Context),
        ?assertEqual(0, turns_of(Context, fun() -> timer:sleep(reactor_test:times(1000, 10000)) end))
    end).

one_timer_one_turn(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import loops\nloops.results.clear()\nloops.tick_every(0.1)"),
        wait_until(fun() -> element(2, py:eval(Context, "len(loops.results)")) > 1 end),
        {ok, Before} = py:eval(Context, "len(loops.results)"),
        Turns = turns_of(Context, fun() -> timer:sleep(reactor_test:times(1000, 10000)) end),
        {ok, After} = py:eval(Context, "len(loops.results)"),
        %% The question is a turn, and so may be the end of its wake-up.
        ?assert(Turns =< After - Before + 2, {Turns, After - Before})
    end).

ten_thousand_sleeps(Config) ->
    with_context(Config, #{}, fun all_sleep/1).

ten_times_ten_thousand_sleeps_beside_busy_loops(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Python} = py:eval(Context, "__import__('sys').executable"),
        Loop = [{args, ["-c", "while True: pass"]}],
        Busy = [open_port({spawn_executable, Python}, Loop) || _ <- lists:seq(1, 6)],
        Pids = [Pid || Port <- Busy, {os_pid, Pid} <- [erlang:port_info(Port, os_pid)]],
        try
            [all_sleep(Context) || _ <- lists:seq(1, 10)]
        after
            [os:cmd("kill " ++ integer_to_list(Pid)) || Pid <- Pids]
        end
    end).

all_sleep(Context) ->
    ok = py:exec(Context, "import loops\nloops.sleep_all(10000, 0.3)"),
    wait_equal({ok, [10000, 0]}, fun() -> py:call(Context, loops, slept, []) end).

-define(THOUSAND_SLEEP,
    "import asyncio, time\n"
    "async def main():\n"
    "    began = time.monotonic()\n"
    "    await asyncio.gather(*(asyncio.sleep(0.5, n) for n in range(1000)))\n"
    "    print(time.monotonic() - began, end=\"\")\n"
    "asyncio.run(main())"
).

%% What else the machine does comes and goes: one undisturbed comparison with a program of asyncio is needed.
a_thousand_calls_end_when_those_of_asyncio_do(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Python} = py:eval(Context, "__import__('sys').executable"),
        {ok, 0} = py:call(Context, awaits, sleep, [0, 0]),
        Ratio = fun() ->
            Alone = list_to_float(os:cmd(io_lib:format("~ts -c '~ts'", [Python, ?THOUSAND_SLEEP]))),
            {Took, ok} = timer:tc(fun() -> calls_that_sleep(Context, 1000) end),
            ct:log("asyncio ~p s, calls ~p s", [Alone, Took / 1.0e6]),
            Took / 1.0e6 / Alone
        end,
        ?assert(lists:any(fun(_) -> Ratio() =< 1.5 end, lists:seq(1, 15)))
    end).

calls_that_sleep(Context, Count) ->
    Ask = fun(N) -> {N, spawn_monitor(fun() -> exit({answer, py:call(Context, awaits, sleep, [0.5, N], #{}, 60000)}) end)} end,
    Hear = fun({N, {Pid, Monitor}}) -> receive {'DOWN', Monitor, process, Pid, {answer, Answer}} -> {ok, N} = Answer end end,
    lists:foreach(Hear, [Ask(N) || N <- lists:seq(1, Count)]).

callbacks_that_never_end_starve_nobody(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        ok = py:exec(Context, "import loops\nloops.spin_forever()"),
        {Client, _} = client(Context, Config),
        [
            begin
                ok = send(Client, "x"),
                ok = expect(Client, "x")
            end
         || _ <- lists:seq(1, 20)
        ],
        ok = py:exec(Context, "loops.note_after(0.001, 'timer')"),
        wait_equal({ok, true}, fun() -> py:eval(Context, "'timer' in loops.results") end)
    end).

from_other_threads(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = register_self(),
        [
            begin
                {ok, none} = py:call(Context, loops, from_thread, [Name]),
                said(<<"from a thread">>)
            end
         || _ <- lists:seq(1, 20)
        ]
    end).

exceptions_are_logged_and_cost_nothing(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {ok, none} = py:call(Context, loops, fail, [register_self()]),
        said(<<"after it">>),
        ?assertMatch({error, _, _}, log_collector:await(Id, ["Exception in callback", "ZeroDivisionError"]))
    end).

what_a_contexts_loop_refuses(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import loops"),
        [
            begin
                {ok, Text} = py:call(Context, loops, raises_given, [Method, Kind]),
                ?assertNotEqual(nomatch, string:find(Text, Advice), {Method, Text})
            end
         || {Method, Kind, Advice} <- [
                {run_forever, <<>>, "new_event_loop"},
                {run_until_complete, coroutine, "create_task"},
                {stop, <<>>, "py_reactor_context:stop"},
                {close, <<>>, "py_reactor_context:stop"},
                {add_signal_handler, signal, "os:set_signal"}
            ]
        ]
    end).

%% Libraries would set signal handlers there. What begins a loop on the main thread does so, too.
no_context_has_pythons_main_thread(Config) ->
    with_context(Config, #{}, fun(Context) ->
        [
            ?assertEqual({Wrong, {ok, false}}, {Wrong, py:eval(Context, ["(lambda threading: ", Wrong, ")(__import__('threading'))"])})
         || Wrong <- [
                "threading.current_thread() is threading.main_thread()",
                "threading.get_ident() == threading.main_thread().ident"
            ]
        ],
        {ok, 42} = py:eval(Context, "(lambda asyncio: asyncio.run(asyncio.sleep(0, 42)))(__import__('asyncio'))")
    end).

no_subprocess_unless_allowed(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, none} = py:call(Context, loops, start_program, [register_self()]),
        receive
            [<<"PermissionError">>, Text] -> ?assertNotEqual(nomatch, string:find(Text, "allow_subprocess"), Text)
        after 30000 -> error(timeout)
        end
    end).

an_interrupt_ends_a_callback(Config) ->
    interrupted(Config, spin).

an_interrupt_ends_a_task(Config) ->
    interrupted(Config, spin_in_a_task).

%% What comes after it runs as if nothing had been.
interrupted(Config, Function) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {ok, none} = py:call(Context, loops, Function, [register_self()]),
        said(<<"spins">>),
        ok = py_reactor_context:interrupt(Context),
        said(<<"after it">>),
        ?assertMatch({error, _, _}, log_collector:await(Id, ["ended by", "Interrupted"])),
        {ok, none} = py:call(Context, loops, from_thread, [registered_name()]),
        said(<<"from a thread">>)
    end).

slow_callbacks_are_named(Config) ->
    with_context(Config, #{slow_callback_ms => 20}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Flag = filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag()),
        ok = py:exec(Context, ["import loops, erlang\nerlang.event_loop().call_soon(loops.sleep_until_there_is, '", Flag, "')"]),
        %% Who watches has looked, while it slept.
        [?assertMatch({warning, _, _}, log_collector:await(Id, [Text])) || Text <- ["sleeps", "has not returned"]],
        ok = file:write_file(Flag, <<>>),
        ?assertMatch({warning, _, _}, log_collector:await(Id, ["sleep_until_there_is", "slow_callback_ms"]))
    end).

stop_ends_tasks(Config) ->
    Name = register_self(),
    with_context(Config, #{}, fun(Context) ->
        {ok, none} = py:call(Context, loops, hold_on, [Name]),
        [said(What) || What <- [<<"executor">>, <<"begun">>]],
        ok = py_reactor_context:stop(Context, 5000),
        [said(What) || What <- [<<"task">>, <<"generator">>]]
    end).

stop_waits_for_no_task_for_ever(Config) ->
    Name = register_self(),
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {ok, none} = py:call(Context, loops, swallow, [Name]),
        said(<<"begun">>),
        ok = py_reactor_context:stop(Context, 100),
        said(<<"swallowed">>),
        ?assertMatch({warning, _, _}, log_collector:await(Id, ["although they were cancelled"]))
    end).

transports_of_asyncio(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = register_self(),
        {ok, none} = py:call(Context, loops, serve, [Name]),
        Port =
            receive
                Number when is_integer(Number) -> Number
            after 30000 -> error(timeout)
            end,
        [
            begin
                {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
                ok = send(Client, "line\n"),
                ok = expect(Client, "line\n"),
                ok = reactor_test:expect_eof(Client)
            end
         || _ <- lists:seq(1, 10)
        ],
        settled(Context),
        ?assertEqual(0, turns_of(Context, fun() -> timer:sleep(300) end))
    end).

loops_of_ones_own(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Backend = proplists:get_value(backend, Config),
        [?assertEqual({ok, 42}, py:call(Context, loops, own_loop, [Backend])) || _ <- [1, 2, 3]]
    end).

loops_of_ones_own_on_threads(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Backend = proplists:get_value(backend, Config),
        ?assertEqual({ok, [42, 42, 42, 42, 42]}, py:call(Context, loops, own_loop_on_threads, [Backend])),
        ?assertEqual(
            {ok, lists:duplicate(5, <<"hello">>)},
            py:call(Context, loops, own_loop_with_a_connection_on_threads, [Backend])
        )
    end).

%% Two of each stayed, and the memory of its buffers. Other contexts come and go meanwhile.
loops_of_ones_own_closed_elsewhere(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Backend = proplists:get_value(backend, Config),
        {ok, Left} = py:call(Context, loops, own_loops_closed_elsewhere, [Backend]),
        ?assert(Left < 15)
    end).

loops_of_ones_own_interrupted(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Backend = proplists:get_value(backend, Config),
        ?assertEqual({ok, <<"interrupted">>}, py:call(Context, loops, own_loop_interrupted, [Backend]))
    end).

%% The C part of asyncio is shared between interpreters before 3.12, and its exceptions with it.
cancellations_are_of_ones_own_interpreter(Config) ->
    with_context(Config, #{}, fun(One) ->
        with_context(Config, #{}, fun(Other) ->
            Contexts = [One, Other, One],
            [ok = py:exec(Context, "import asyncio, loops") || Context <- Contexts],
            [
                ?assertEqual({ok, <<"its own">>}, py:eval(Context, "asyncio.run(loops.cancelled())"))
             || Context <- Contexts
            ]
        end)
    end).

%% What set-up code has begun ends with it.
set_up_that_fails_leaves_no_loop(Config) ->
    Path = [reactor_test:python_path()],
    Code = "import asyncio, weakref, loops, erlang\nloops.kept.append(weakref.ref(erlang.event_loop()))\nraise ValueError",
    Options = reactor_test:options(Config, #{setup_code => Code, python_path => Path}),
    Trap = process_flag(trap_exit, true),
    {error, {setup_code, _}} = py_reactor_context:start_link(reactor_test:new_id(), reactor_test:mode(Config), Options),
    process_flag(trap_exit, Trap),
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import gc, loops\ngc.collect()"),
        ?assertEqual({ok, []}, py:eval(Context, "[loop for loop in map(loops.referred, loops.kept) if loop]"))
    end).

%% In `worker' one context imports asyncio; the others hear of it.
contexts_that_share_an_interpreter(Config) ->
    serving(Config, "loops.Everywhere", fun(One) ->
        serving(Config, "loops.Everywhere", fun(Other) ->
            Name = register_self(),
            Threads = [
                begin
                    ok = py:exec(Context, "import erlang, threading, loops"),
                    ok = py:exec(Context, [
                        "erlang.event_loop().call_soon(lambda: loops.say('", Name, "', threading.get_ident()))"
                    ]),
                    {ok, Thread} = py:eval(Context, "threading.get_ident()"),
                    said(Thread),
                    Thread
                end
             || Context <- [One, Other]
            ],
            ?assertEqual(2, length(lists:usort(Threads)))
        end)
    end).

%% How many turns a context makes while `Fun' runs.
turns_of(Context, Fun) ->
    #{turns := Before} = py_reactor_context:stats(Context),
    Fun(),
    #{turns := After} = py_reactor_context:stats(Context),
    After - Before.

%% Its last turns, for what it was asked before, are over: its thread sleeps, and has not merely been kept from going on.
settled(Context) ->
    Thread = os_resources:thread(Context),
    wait_until(fun() ->
        Turns = turns_of(Context, fun() -> os_resources:sleeps(Thread) andalso timer:sleep(50) end),
        Turns =:= 0 andalso os_resources:sleeps(Thread)
    end).

registered_name() ->
    {registered_name, Name} = process_info(self(), registered_name),
    atom_to_binary(Name).
