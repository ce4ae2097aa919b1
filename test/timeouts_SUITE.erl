%% Requests with a timeout: the wait ends, what has not begun is dropped, what runs is interrupted, and nothing else is.
-module(timeouts_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [
    client/2, send/2, expect/2, with_context/3, serving/3, wait_until/1, wait_equal/2, register_self/0, said/1
]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        what_runs_is_interrupted,
        what_has_not_begun_is_dropped,
        never_the_next,
        nobody_elses_connection,
        the_limit_outlives_its_caller,
        a_call_of_erlang,
        an_endless_result,
        beside_another_interrupt,
        in_time,
        context_one,
        what_is_no_timeout
    ], [], [
        a_step_that_does_not_return_is_interrupted,
        nobody_elses_step_is,
        who_cleans_up_is_left_alone,
        what_still_runs_later_is_interrupted_again
    ]).

what_runs_is_interrupted(Config) ->
    with_endless(Config, fun(Context) ->
        [
            begin
                ?assertEqual({error, timeout}, Ask()),
                ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
            end
         || Ask <- [
                fun() -> py:exec(Context, "while True: pass", 50) end,
                fun() -> py:eval(Context, "[x for x in iter(int, 1)]", #{}, 50) end,
                fun() -> py:call(Context, endless, spin, [], #{}, 50) end,
                fun() -> py:call(Context, endless, stubborn, [], #{}, 50) end,
                fun() -> py:call(Context, endless, spin_async, [], #{}, 50) end
            ]
        ]
    end).

%% Of its own task, and of those that it waits for. Nobody is told of an error but the caller.
a_step_that_does_not_return_is_interrupted(Config) ->
    Name = register_self(),
    with_context(Config, #{setup_code => "import given_up"}, fun(Context) ->
        [
            begin
                ct:log("~s, ~s", [Function, How]),
                ok = given_up(How, Context, Function, [Name]),
                ?assertEqual({ok, 1}, py:call(Context, given_up, compute, [1])),
                wait_equal({ok, 0}, fun() -> py:call(Context, given_up, tasks, []) end)
            end
         || Function <- [at_once, behind_an_await, in_a_task, gathered, in_a_group, waited_for],
            How <- [time_is_over, caller_dies]
        ],
        ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, "Interrupted") =/= nomatch])
    end).

%% On a busy machine the time may be over before the call begins: it is dropped then.
given_up(time_is_over, Context, Function, Args) ->
    times_out(Context, Function, Args, 100);
given_up(caller_dies, Context, Function, Args) ->
    Caller = spawn(fun() -> py:call(Context, given_up, Function, Args) end),
    ok = said(<<"begun">>),
    true = exit(Caller, kill),
    ok.

times_out(Context, Function, Args, Ms) ->
    ?assertEqual({error, timeout}, py:call(Context, given_up, Function, Args, #{}, Ms)),
    receive
        <<"begun">> -> ok
    after 0 -> times_out(Context, Function, Args, 4 * Ms)
    end.

%% Whatever else runs when the time of some is over.
nobody_elses_step_is(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {ok, none} = py:call(Context, given_up, stand_by, []),
        {Client, _} = client(Context, Config),
        [
            begin
                Limits = [N rem 5, 3 + N rem 20],
                Calls = [{compute, [1 + N rem 7]}, {compute, [1000]}, {hold_on, [self()]}],
                Limited = [asked(Context, Function, Args, Ms) || {Function, Args} <- Calls, Ms <- Limits],
                Whole = asked(Context, compute, [3], infinity),
                send(Client, <<"ping">>),
                expect(Client, <<"ping">>),
                ?assertEqual({ok, 3}, answer(Whole)),
                ?assertEqual([], [Answer || Call <- Limited, Answer <- [answer(Call)], not is_right(Answer)])
            end
         || N <- lists:seq(1, reactor_test:times(20, 60))
        ],
        {ok, {Steps, none}} = py:call(Context, given_up, bystanders, []),
        ?assert(Steps > 0)
    end).

asked(Context, Function, Args, Ms) ->
    spawn_monitor(fun() -> exit({answer, py:call(Context, given_up, Function, Args, #{}, Ms)}) end).

%% What it does on its way out is not what was given up. Python is busy, so that who interrupts has to wait for it.
who_cleans_up_is_left_alone(Config) ->
    Name = register_self(),
    with_context(Config, #{setup_code => "import given_up"}, fun(Context) ->
        {ok, none} = py:call(Context, given_up, stand_by, []),
        [
            begin
                ok = given_up(How, Context, clean_up, [Name, 0.1]),
                ok = said(<<"clean">>)
            end
         || _ <- lists:seq(1, 5), How <- [time_is_over, caller_dies]
        ]
    end).

%% Code that catches what ends it goes on, but not for ever. Each in a context of its own, all at the same time.
what_still_runs_later_is_interrupted_again(Config) ->
    Name = register_self(),
    Hows = [{Function, How} || Function <- [in_the_end, twice], How <- [time_is_over, caller_dies]],
    with_contexts(Config, length(Hows), fun(Contexts) ->
        [
            begin
                ok = given_up(How, Context, Function, [Name]),
                ok = said(<<"again">>)
            end
         || {Context, {Function, How}} <- lists:zip(Contexts, Hows)
        ],
        [?assertEqual({ok, 1}, py:call(Context, given_up, compute, [1])) || Context <- Contexts]
    end).

with_contexts(_Config, 0, Fun) ->
    Fun([]);
with_contexts(Config, Count, Fun) ->
    with_context(Config, #{setup_code => "import given_up"}, fun(Context) ->
        with_contexts(Config, Count - 1, fun(Contexts) -> Fun([Context | Contexts]) end)
    end).

what_has_not_begun_is_dropped(Config) ->
    with_endless(Config, fun(Context) ->
        {Begun, Go} = {flag(Config), flag(Config)},
        ok = py:exec(Context, [
            "ran = []\nimport os\ndef wait(begun, path):\n    open(begun, 'x').close()\n"
            "    while not os.path.exists(path): time.sleep(0.001)"
        ]),
        First = spawn_monitor(fun() -> exit({answer, py:call(Context, '__main__', wait, [Begun, Go])}) end),
        wait_until(fun() -> filelib:is_file(Begun) end),
        ?assertEqual({error, timeout}, py:exec(Context, "ran.append('late')", 50)),
        ?assertEqual({error, timeout}, py:eval(Context, "ran.append('later')", #{}, 0)),
        ?assertEqual({error, timeout}, py:call(Context, '__main__', 'ran.append', [latest], #{}, 50)),
        ok = file:write_file(Go, <<>>),
        ?assertEqual({ok, none}, answer(First)),
        ?assertEqual({ok, []}, py:eval(Context, "ran"))
    end).

%% The time of some is over while they end: whatever runs after them is whole.
never_the_next(Config) ->
    with_endless(Config, fun(Context) ->
        ok = py:exec(Context, "def count(n):\n    for i in range(n): pass\n    return n"),
        {Took, {ok, _}} = timer:tc(fun() -> py:call(Context, '__main__', count, [100000]) end),
        Limit = max(1, Took div 1000),
        Answers = [
            begin
                Limited = py:call(Context, '__main__', count, [100000 * (50 + N rem 100) div 100], #{}, Limit),
                ?assertMatch({ok, 3000}, py:call(Context, '__main__', count, [3000])),
                Limited
            end
         || N <- lists:seq(1, 200)
        ],
        ?assertEqual([], [Answer || Answer <- Answers, not is_right(Answer)])
    end).

is_right({ok, _}) -> true;
is_right({error, timeout}) -> true;
is_right(_) -> false.

nobody_elses_connection(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        ok = py:exec(Context, "def count(n):\n    for i in range(n): pass"),
        Test = self(),
        Asker = spawn_link(fun() ->
            [_ = py:call(Context, '__main__', count, [20000], #{}, N rem 3) || N <- lists:seq(1, 200)],
            Test ! {self(), done}
        end),
        Clients = [Client || _ <- lists:seq(1, 4), {Client, _} <- [client(Context, Config)]],
        ok = echo_until(Asker, Clients)
    end).

echo_until(Asker, Clients) ->
    [send(Client, <<"ping">>) || Client <- Clients],
    [expect(Client, <<"ping">>) || Client <- Clients],
    receive
        {Asker, done} -> ok
    after 0 -> echo_until(Asker, Clients)
    end.

the_limit_outlives_its_caller(Config) ->
    with_endless(Config, fun(Context) ->
        ok = outlives_its_caller(Config, Context, 500),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

%% On a busy machine the time may be over before the request begins, or before its caller is killed.
outlives_its_caller(Config, Context, Ms) ->
    Flag = flag(Config),
    {Caller, Monitor} = spawn_monitor(fun() ->
        exit(py:exec(Context, ["open('", Flag, "', 'x').close()\nwhile True: pass"], Ms))
    end),
    wait_until(fun() -> filelib:is_file(Flag) orelse not is_process_alive(Caller) end),
    exit(Caller, kill),
    receive
        {'DOWN', Monitor, process, Caller, killed} -> ok;
        {'DOWN', Monitor, process, Caller, {error, timeout}} -> outlives_its_caller(Config, Context, 4 * Ms)
    end.

%% Python waits for Erlang, in our own code.
a_call_of_erlang(Config) ->
    Name = reactor_test:tag(),
    ok = py:register_function(Name, fun() -> receive never -> ok end end),
    with_endless(Config, fun(Context) ->
        ?assertEqual({error, timeout}, py:eval(Context, "erlang.call(name, timeout=None)", #{name => Name}, 50)),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end),
    py:unregister_function(Name).

%% What makes a term of the result may run Python code, too.
an_endless_result(Config) ->
    with_endless(Config, fun(Context) ->
        ?assertEqual({error, timeout}, py:call(Context, endless, no_result, [flag(Config)], #{}, 50)),
        ?assertEqual({error, timeout}, py:call(Context, endless, no_text, [flag(Config)], #{}, 50)),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

%% Interrupts of a context come one at a time: that of a timeout is not lost to one of somebody's.
beside_another_interrupt(Config) ->
    with_endless(Config, fun(Context) ->
        Disturber = spawn_link(fun() -> disturb(Context) end),
        %% It swallows one interrupt, whoever has asked for it.
        Once = "try:\n    while True: pass\nexcept BaseException:\n    pass\n",
        [_ = py:exec(Context, Once, 1) || _ <- lists:seq(1, 50)],
        true = unlink(Disturber),
        exit(Disturber, kill),
        wait_until(fun() -> py:eval(Context, "1 + 1") =:= {ok, 2} end)
    end).

disturb(Context) ->
    _ = py_reactor_context:interrupt(Context),
    disturb(Context).

in_time(Config) ->
    with_endless(Config, fun(Context) ->
        ?assertEqual(ok, py:exec(Context, "x = 1", 30000)),
        ?assertEqual({ok, 3}, py:eval(Context, "x + y", #{y => 2}, 30000)),
        ?assertEqual({ok, [1, 2]}, py:call(Context, builtins, sorted, [[2, 1]], #{}, 30000)),
        ?assertEqual({ok, [2, 1]}, py:call(Context, builtins, sorted, [[2, 1]], #{reverse => true}, infinity)),
        ?assertMatch({error, {python_error, #{type := <<"ZeroDivisionError">>}}}, py:eval(Context, "1 / 0", #{}, 30000))
    end).

context_one(_Config) ->
    ok = py:exec("x1 = 1", 30000),
    ?assertEqual({ok, 3}, py:eval("x1 + y", #{y => 2}, 30000)),
    ?assertEqual({ok, [2, 1]}, py:call(builtins, sorted, [[2, 1]], #{reverse => true}, 30000)),
    ?assertEqual({error, timeout}, py:exec("while True: pass", 50)),
    ?assertEqual({ok, 1}, py:eval("x1")).

what_is_no_timeout(Config) ->
    with_endless(Config, fun(Context) ->
        [
            ?assertMatch({error, {bad_argument, timeout, No, _}}, Answer)
         || No <- [-1, 1.5, never, <<"1">>, 16#100000000],
            Answer <- [py:exec(Context, "", No), py:eval(Context, "1", #{}, No), py:call(Context, os, getpid, [], #{}, No)]
        ]
    end).

with_endless(Config, Fun) ->
    with_context(Config, #{setup_code => "import endless, time"}, Fun).

flag(Config) ->
    unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())).

answer({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer
    after 60000 -> error(no_answer)
    end.
