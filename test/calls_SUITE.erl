%% exec, eval, call and cast: Python that Erlang asks a context to run, beside the connections that it serves.
-module(calls_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, client/2, send/2, expect/2, wait_until/1]).

%% What traces say instead of a scheduler's number.
-define(DIRTY, 0).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        exec_defines,
        eval_sees_globals_and_locals,
        call_arguments,
        calls_of_main,
        default_context,
        names_and_code_as_text,
        wrong_arguments,
        errors_are_whole,
        errors_that_cannot_be_shown,
        long_tracebacks_are_cut,
        cast_logs_what_it_raises,
        coroutines,
        coroutine_errors,
        many_callers,
        requests_keep_their_order,
        threads_of_python,
        thread_affinity
    ], [
        cast_does_not_wait,
        a_long_call_delays_nobody_elses_connections,
        stats_answer_while_a_context_is_busy,
        the_queue_is_bounded,
        what_is_large_is_copied_by_a_dirty_scheduler
    ]).

exec_defines(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, <<"import math\nx = 5\ndef area(r):\n    return math.pi * r * r\n">>),
        ?assertEqual({ok, 5}, py:eval(Context, <<"x">>)),
        ?assertEqual({ok, math:pi() * 4}, py:eval(Context, "area(2)")),
        ok = py:exec(Context, "x += 1"),
        ?assertEqual({ok, 6}, py:eval(Context, "x")),
        ?assertEqual({ok, <<"__main__">>}, py:eval(Context, "__name__")),
        ?assertEqual(ok, py:exec(Context, "")),
        ?assertEqual(ok, py:exec(Context, "# nothing\n"))
    end).

eval_sees_globals_and_locals(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "x = 1"),
        ?assertEqual({ok, 42}, py:eval(Context, "x + a + b", #{a => 1, <<"b">> => 40})),
        ?assertEqual({ok, 2}, py:eval(Context, "x", #{"x" => 2})),
        ?assertEqual({ok, 1}, py:eval(Context, "x")),
        ?assertMatch({error, {python_error, #{type := <<"NameError">>}}}, py:eval(Context, "a")),
        ?assertMatch({error, {python_error, #{type := <<"SyntaxError">>}}}, py:eval(Context, "x = 2"))
    end).

call_arguments(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, [[1, 2], #{<<"k">> => 3}]}, py:call(Context, jobs, arguments, [1, 2], #{k => 3})),
        ?assertEqual({ok, [[], #{<<"k">> => 3, <<"l">> => 4}]}, py:call(Context, <<"jobs">>, "arguments", [], #{<<"k">> => 3, "l" => 4})),
        ?assertEqual({ok, [[], #{}]}, py:call(Context, jobs, arguments, [])),
        ?assertEqual({ok, <<"name">>}, py:call(Context, os, 'path.basename', [<<"/a/name">>]))
    end).

calls_of_main(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "def double(x):\n    return 2 * x\nclass Math:\n    @staticmethod\n    def square(x):\n        return x * x\n"),
        ?assertEqual({ok, 42}, py:call(Context, '__main__', double, [21])),
        ?assertEqual({ok, 49}, py:call(Context, '__main__', 'Math.square', [7])),
        ?assertMatch({error, {python_error, #{type := <<"NameError">>}}}, py:call(Context, '__main__', triple, [1]))
    end).

default_context(_Config) ->
    ok = py:exec("default_context = 'one'"),
    ?assertEqual({ok, <<"one">>}, py:eval("default_context")),
    ?assertEqual({ok, <<"one">>}, py:eval(1, "default_context")),
    ?assertEqual({ok, <<"one">>}, py:eval(py:context(), "default_context")),
    ?assertEqual({ok, 3}, py:eval("a + b", #{a => 1, b => 2})),
    ?assertEqual({ok, 5}, py:call(builtins, len, [<<"12345">>])),
    ?assertEqual({ok, [3, 2, 1]}, py:call(builtins, sorted, [[1, 3, 2]], #{reverse => true})),
    ok = py:cast(gc, collect, []),
    ok = py_reactor_context:stop(1).

names_and_code_as_text(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, <<"é"/utf8>>}, py:eval(Context, ["'", [16#e9], "'"])),
        ?assertEqual({ok, <<"日本"/utf8>>}, py:eval(Context, <<"'日本'"/utf8>>)),
        ok = py:exec(Context, <<"größe = 3"/utf8>>),
        ?assertEqual({ok, 3}, py:eval(Context, "größe"))
    end).

wrong_arguments(Config) ->
    with_context(Config, #{}, fun(Context) ->
        [
            ?assertMatch({error, {bad_argument, _, _, Why}} when is_binary(Why), Result)
         || Result <- [
                py:exec(Context, 5),
                py:exec(Context, <<255>>),
                py:eval(Context, atom),
                py:eval(Context, "1", not_a_map),
                py:eval(Context, "1", #{5 => 1}),
                py:call(Context, jobs, arguments, not_a_list),
                py:call(Context, jobs, arguments, [], []),
                py:call(Context, 5, arguments, []),
                py:call(Context, jobs, {f}, [])
            ]
        ],
        [
            ?assertMatch({error, {python_error, #{type := _}}}, Result)
         || Result <- [
                py:eval(Context, ""),
                py:eval(Context, <<"1\0">>),
                py:exec(Context, <<"x = 1\0">>),
                py:call(Context, '', f, []),
                py:call(Context, jobs, '', []),
                py:call(Context, 'jobs.', f, []),
                py:call(Context, '.', f, [])
            ]
        ],
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

errors_are_whole(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {error, {python_error, #{type := Type, message := Message, traceback := Traceback}}} =
            py:call(Context, jobs, fails_deep_inside, [3]),
        ?assertEqual({<<"jobs.Failure">>, <<"deep inside">>}, {Type, Message}),
        [
            ?assertNotEqual(nomatch, string:find(Traceback, Part), Part)
         || Part <- ["Traceback", "jobs.py", "fails_deep_inside", "ZeroDivisionError", "direct cause", "jobs.Failure: deep inside"]
        ],
        [
            ?assertMatch({error, {python_error, #{type := Name}}}, py:exec(Context, <<"raise ", Name/binary>>))
         || Name <- [<<"SystemExit">>, <<"KeyboardInterrupt">>, <<"GeneratorExit">>, <<"StopIteration">>, <<"MemoryError">>]
        ],
        ?assertMatch({error, {python_error, #{type := <<"RecursionError">>}}}, py:call(Context, jobs, recurse, [])),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

errors_that_cannot_be_shown(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertMatch(
            {error, {python_error, #{type := <<"jobs.Unshowable">>, message := Message}}} when is_binary(Message),
            py:call(Context, jobs, raises_unshowable, [])
        ),
        {error, {python_error, #{message := Surrogates, traceback := Traceback}}} = py:exec(Context, "raise ValueError('\\ud800')"),
        [?assert(is_list(unicode:characters_to_list(Text))) || Text <- [Surrogates, Traceback]],
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

long_tracebacks_are_cut(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {error, {python_error, #{traceback := Traceback}}} = py:exec(Context, "raise ValueError('x' * 10_000_000)"),
        ?assert(byte_size(Traceback) < 100000),
        ?assertNotEqual(nomatch, string:find(Traceback, "characters left out"))
    end).

cast_does_not_wait(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = reactor_test:tag(),
        ok = py:cast(Context, jobs, wait_for, [Name]),
        ok = py:cast(Context, jobs, append, [Name, 2]),
        with_context(Config, #{}, fun(Other) ->
            wait_until(fun() -> py:call(Other, jobs, is_waiting, [Name]) =:= {ok, true} end),
            {ok, none} = py:call(Other, jobs, let_go, [Name])
        end),
        reactor_test:wait_equal({ok, [2]}, fun() -> py:call(Context, jobs, appended, [Name]) end),
        ?assertEqual({messages, []}, process_info(self(), messages))
    end).

cast_logs_what_it_raises(Config) ->
    ok = log_collector:install(),
    try
        with_context(Config, #{}, fun(Context) ->
            {ok, Id} = py_reactor_table:id(Context),
            ok = py:cast(Context, jobs, fails_deep_inside, [1]),
            ?assertMatch({error, _, _}, log_collector:await(Id, ["cast", "jobs.Failure: deep inside", "jobs.py"]))
        end)
    after
        log_collector:remove()
    end.

coroutines(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, [1, 4, 9]}, py:call(Context, jobs, gather_squares, [[1, 2, 3]])),
        ok = py:exec(Context, "async def f(x):\n    return x + 1\n"),
        ?assertEqual({ok, 3}, py:call(Context, '__main__', f, [2])),
        %% Again, in a loop of its own.
        ?assertEqual({ok, 4}, py:call(Context, '__main__', f, [3]))
    end).

coroutine_errors(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {error, {python_error, #{type := <<"jobs.Failure">>, traceback := Traceback}}} = py:call(Context, jobs, fails_async, []),
        ?assertNotEqual(nomatch, string:find(Traceback, "fails_async")),
        ?assertMatch({error, {python_error, #{type := <<"asyncio.exceptions.CancelledError">>}}}, py:call(Context, jobs, cancelled_async, [])),
        ?assertEqual({ok, [1]}, py:call(Context, jobs, gather_squares, [[1]]))
    end).

many_callers(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Test = self(),
        Pids = [
            spawn_link(fun() ->
                Sum = lists:sum([element(2, py:eval(Context, "a * b", #{a => N, b => M})) || M <- lists:seq(1, 50)]),
                Test ! {self(), Sum}
            end)
         || N <- lists:seq(1, 50)
        ],
        Sums = [receive {Pid, Sum} -> Sum end || Pid <- Pids],
        ?assertEqual([N * 50 * 51 div 2 || N <- lists:seq(1, 50)], Sums)
    end).

requests_keep_their_order(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = reactor_test:tag(),
        [ok = py:cast(Context, jobs, append, [Name, N]) || N <- lists:seq(1, 3000)],
        ?assertEqual({ok, lists:seq(1, 3000)}, py:call(Context, jobs, appended, [Name]))
    end).

%% Runs Fun while the context is in the middle of a call.
while_busy(Config, Context, Fun) ->
    Name = reactor_test:tag(),
    with_context(Config, #{}, fun(Other) ->
        {Caller, Monitor} = spawn_monitor(fun() -> exit(py:call(Context, jobs, wait_for, [Name])) end),
        wait_until(fun() -> py:call(Other, jobs, is_waiting, [Name]) =:= {ok, true} end),
        try
            Fun(Other)
        after
            {ok, none} = py:call(Other, jobs, let_go, [Name]),
            receive
                {'DOWN', Monitor, process, Caller, Reason} -> ?assertEqual({ok, <<"done">>}, Reason)
            end
        end
    end).

a_long_call_delays_nobody_elses_connections(Config) ->
    serving(Config, "streams.Echo", fun(Busy) ->
        {Waiting, _} = client(Busy, Config),
        serving(Config, "streams.Echo", fun(Free) ->
            while_busy(Config, Busy, fun(_Other) ->
                send(Waiting, <<"later">>),
                {Client, _} = client(Free, Config),
                [begin send(Client, <<"x">>), expect(Client, <<"x">>) end || _ <- lists:seq(1, 100)],
                {New, _} = client(Free, Config),
                send(New, <<"y">>),
                expect(New, <<"y">>),
                %% A handoff to the busy one is taken without waiting.
                {Queued, _} = client(Busy, Config),
                send(Queued, <<"queued">>),
                put(queued, Queued)
            end),
            expect(Waiting, <<"later">>),
            expect(get(queued), <<"queued">>)
        end)
    end).

stats_answer_while_a_context_is_busy(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        while_busy(Config, Context, fun(_Other) ->
            ?assertMatch(#{connections := 1, messages := 1, bytes_in := 1}, py_reactor_context:stats(Context))
        end)
    end).

%% A context that does not get on refuses what it cannot keep, at once.
the_queue_is_bounded(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Name = reactor_test:tag(),
        while_busy(Config, Context, fun(_Other) ->
            Results = [py:cast(Context, jobs, append, [Name, N]) || N <- lists:seq(1, 20000)],
            ?assertEqual([ok, {error, busy}], lists:usort(Results)),
            ?assertEqual({error, busy}, py:eval(Context, "1")),
            {Client, Server} = reactor_test:pair(Config),
            ?assertEqual({error, busy}, py_reactor_context:handoff(Context, Server, #{})),
            %% It is still ours.
            ok = gen_tcp:send(Server, <<"mine">>),
            expect(Client, <<"mine">>),
            put(queued, length([ok || ok <- Results]))
        end),
        {ok, Appended} = py:call(Context, jobs, appended, [Name]),
        ?assertEqual(lists:seq(1, get(queued)), Appended)
    end).

%% Told by where the caller runs, not by how long: an argument of three million elements kept a scheduler from all others
%% for as long as copying it takes. What is small stays where it is.
what_is_large_is_copied_by_a_dirty_scheduler(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        _ = client(Context, Config),
        [#{connection := Connection}] = py_reactor_context:connections(Context),
        Test = self(),
        Answer = reactor_test:tag(),
        ok = py:register_function(Answer, fun(N) ->
            1 = erlang:trace(self(), true, [running, scheduler_id, {tracer, Test}]),
            lists:seq(1, N)
        end),
        [
            begin
                ?assertEqual({What, []}, {What, dirty(fun() -> Do(10) end)}),
                ?assertEqual({What, [{py_nif, What}]}, {What, dirty(fun() -> Do(300000) end)})
            end
         || {What, Do} <- [
                {call, fun(N) -> {ok, N} = py:call(Context, builtins, len, [lists:seq(1, N)]) end},
                {call, fun(N) -> {ok, _} = py:call(Context, builtins, dict, [], #{a => list_to_tuple(lists:seq(1, N))}) end},
                {call, fun(N) -> ok = py:cast(Context, builtins, len, [maps:from_list([{I, I} || I <- lists:seq(1, N)])]) end},
                {eval, fun(N) -> {ok, N} = py:eval(Context, "len(a)", #{a => lists:seq(1, N)}) end},
                {exec, fun(N) -> ok = py:exec(Context, ["#", lists:duplicate(8 * N, $ )]) end},
                {connection_ask, fun(N) -> ok = py_reactor_context:notify(Context, Connection, lists:seq(1, N)) end},
                {handoff, fun(N) ->
                    {_Client, Server} = reactor_test:pair(Config),
                    ok = py_reactor_context:handoff(Context, Server, #{large => lists:seq(1, N)})
                end},
                {answer_call, fun(N) ->
                    {ok, N} = py:eval(Context, "len(__import__('erlang').call(name, n))", #{name => Answer, n => N})
                end}
            ]
        ],
        ok = py:unregister_function(Answer)
    end).

%% The native functions that the process of `Do' ran, and who traces itself meanwhile, on dirty schedulers.
dirty(Do) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive go -> Do() end
    end),
    1 = erlang:trace(Pid, true, [running, scheduler_id]),
    Pid ! go,
    receive {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(normal, Why) end,
    Delivered = erlang:trace_delivered(all),
    receive {trace_delivered, all, Delivered} -> ok end,
    lists:usort(dirty_parts()).

dirty_parts() ->
    receive
        {trace, _, in, {py_nif, Function, _}, ?DIRTY} ->
            [{py_nif, Function} | dirty_parts()];
        {trace, _, _, _, _} ->
            dirty_parts()
    after 0 -> []
    end.

threads_of_python(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({ok, [0, 1, 4, 9, 16]}, py:call(Context, jobs, squares_by_threads, [5])),
        ?assertEqual({ok, [0, 1, 4]}, py:call(Context, jobs, squares_by_pool, [3])),
        %% A thread goes on while the reactor waits for events.
        {ok, none} = py:call(Context, jobs, count_in_background, [<<"background">>]),
        reactor_test:wait_equal({ok, 100}, fun() -> py:eval(Context, "__import__('jobs').counts['background']") end)
    end).

%% All callbacks and calls of a context run on one thread: thread-locals and sqlite3 objects work.
thread_affinity(Config) ->
    serving(Config, "jobs.OnOneThread", fun(Context) ->
        {ok, Thread} = py:call(Context, jobs, thread, []),
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, [integer_to_binary(Thread), " row"]),
        ?assertEqual({ok, Thread}, py:call(Context, jobs, thread, [])),
        with_context(Config, #{}, fun(Other) ->
            ?assertNotEqual({ok, Thread}, py:call(Other, jobs, thread, []))
        end)
    end).
