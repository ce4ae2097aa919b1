%% Contexts with an interpreter of their own: what is apart, what runs in parallel, and what is left of them.
-module(contexts_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, send/2, expect/2, expect_eof/1, wait_until/1, new_id/0, options/2, apart/2, has_own_gil/0]).

all() ->
    [
        everything_is_apart,
        own_gil_or_a_reason,
        own_gils_run_in_parallel,
        a_busy_interpreter_stops_no_other,
        threads_and_kept_buffers,
        threads_end_first,
        threads_are_no_daemons,
        a_thread_that_stays_holds_nobody_up,
        a_thread_left_behind_aborts_nothing,
        threads_of_the_end,
        an_end_that_never_comes_is_interrupted,
        an_interpreter_that_ended_leaves_nothing,
        killed_under_traffic,
        by_start_contexts,
        environment_variables,
        environment_variables_of_workers
    ] ++ reactor_test:long([two_hundred_under_traffic, a_hundred_at_a_time]).

%% The main interpreter has a thread that stays: it runs before anybody counts.
init_per_suite(Config) ->
    {ok, _} = py_reactor_context:start_link(new_id(), worker, #{}),
    Config.

end_per_suite(_Config) ->
    ok.

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    process_flag(trap_exit, true),
    [{backend, auto} | Config].

end_per_testcase(_Case, _Config) ->
    ok.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

everything_is_apart(Config) ->
    One = apart(Config, [reactor_test:factory("streams.Echo"), "import apart, sys; sys.path.append('/one')"]),
    Two = apart(Config, [reactor_test:factory("factories.Greeter"), "import apart"]),
    {ok, Worker} = py_reactor_context:start_link(new_id(), worker, options(Config, #{setup_code => "import apart"})),
    [?assertEqual({ok, N}, py:call(One, apart, count_up, [])) || N <- [1, 2, 3]],
    [?assertEqual({ok, 1}, py:call(C, apart, count_up, [])) || C <- [Two, Worker]],
    ?assertEqual({ok, true}, py:eval(One, "'/one' in sys.path")),
    [?assertEqual({ok, false}, py:eval(C, "'/one' in __import__('sys').path")) || C <- [Two, Worker]],
    {Echo, _} = client(One, Config),
    {Greeter, _} = client(Two, Config),
    expect(Greeter, <<"hello">>),
    echoes(Echo),
    ?assertMatch({error, {python_error, #{type := <<"apart_error.Mine">>}}}, raise_own(One)),
    [ok = py_reactor_context:stop(C, 100) || C <- [One, Two, Worker]].

raise_own(Context) ->
    ok = py:exec(Context, "Mine = type('Mine', (Exception,), {'__module__': 'apart_error'})\ndef raise_it(): raise Mine()"),
    py:call(Context, '__main__', raise_it, []).

own_gil_or_a_reason(Config) ->
    Result = py_reactor_context:start_link(new_id(), owngil, options(Config, #{})),
    case has_own_gil() of
        true ->
            {ok, Context} = Result,
            ?assertEqual({ok, 3}, py:eval(Context, "1 + 2")),
            ok = py_reactor_context:stop(Context);
        false ->
            {error, {unsupported_mode, owngil, Why}} = Result,
            ?assertNotEqual(nomatch, binary:match(Why, <<"3.12">>)),
            ?assertNotEqual(nomatch, binary:match(Why, <<"subinterp">>))
    end.

own_gils_run_in_parallel(Config) ->
    [Busy, Free] = [apart(Config, "import apart") || _ <- [1, 2]],
    Over = filename:join(?config(priv_dir, Config), "over"),
    ok = file:write_file(Over, <<"n">>),
    Test = self(),
    Spinner = spawn_link(fun() -> Test ! {self(), py:call(Busy, apart, spin, [Test, list_to_binary(Over), most_seconds()])} end),
    receive <<"begun">> -> ok end,
    {ok, Counted} = py:call(Free, apart, count_up_and_tell_when, []),
    %% In place: it is in somebody's memory.
    {ok, File} = file:open(Over, [read, write, raw]),
    ok = file:write(File, <<"y">>),
    ok = file:close(File),
    {ok, Ended} = receive {Spinner, Answer} -> Answer end,
    ?assertEqual(has_own_gil(), Counted < Ended),
    _ = [py_reactor_context:stop(C, 100) || C <- [Busy, Free]].

%% Who shares the GIL can only wait until this is over.
most_seconds() ->
    case has_own_gil() of
        true -> 300;
        false -> 3
    end.

%% Nor where they share the GIL: CPython asks only the interpreter that wants it to let go, not the one that has it. That the
%% interrupt finds the busy one shows that it has been computing all the time.
a_busy_interpreter_stops_no_other(Config) ->
    [Busy, Free] = [apart(Config, [reactor_test:factory("streams.Echo"), "import apart, endless"]) || _ <- [1, 2]],
    {Client, _} = client(Free, Config),
    Flag = filename:join(?config(priv_dir, Config), "busy"),
    {_, Monitor} = spawn_monitor(fun() -> exit({answer, py:call(Busy, endless, '_spin', [list_to_binary(Flag)])}) end),
    wait_until(fun() -> filelib:is_file(Flag) end),
    Test = self(),
    {Asking, _} = spawn_monitor(fun() ->
        Test ! {self(), [py:call(Free, apart, count_up, []) || _ <- lists:seq(1, 50)]}
    end),
    try
        receive
            {Asking, Answers} -> ?assertEqual([{ok, N} || N <- lists:seq(1, 50)], Answers)
        after 30000 -> ct:fail(stopped_by_the_busy_one)
        end,
        [echoes(Client) || _ <- lists:seq(1, 50)],
        %% Nor those who let go of the GIL in the midst of their code, as the imports of one that starts do.
        ?assertEqual({ok, none}, py:call(Free, time, sleep, [0.01], #{}, 60000)),
        ok = py_reactor_context:stop(apart(Config, [reactor_test:factory("streams.Echo")]), 100)
    after
        ?assertEqual(ok, py_reactor_context:interrupt(Busy))
    end,
    receive
        {'DOWN', Monitor, process, _, Reason} ->
            ?assertMatch({answer, {error, {python_error, #{type := <<"erlang.reactor.Interrupted">>}}}}, Reason)
    end,
    gen_tcp:close(Client),
    [ok = py_reactor_context:stop(C, 100) || C <- [Busy, Free]].

%% Threads of the interpreter wake its connections; what it still holds at the end is let go.
threads_and_kept_buffers(Config) ->
    Before = os_resources:snapshot(),
    Context = apart(Config, reactor_test:factory("apart.Keeper")),
    {Client, _} = client(Context, Config),
    [echoes(Client) || _ <- lists:seq(1, 100)],
    ok = py_reactor_context:stop(Context, 100),
    gen_tcp:close(Client),
    os_resources:wait_back_to(Before).

threads_end_first(Config) ->
    Before = os_resources:snapshot(),
    Context = apart(Config, "import apart"),
    ?assertEqual({ok, true}, py:call(Context, apart, start_pool, [])),
    {ok, none} = py:call(Context, apart, start_thread, []),
    ok = py_reactor_context:stop(Context),
    os_resources:wait_back_to(Before).

%% Unless they are to be, also those of callbacks, whose thread Python has not started.
threads_are_no_daemons(Config) ->
    Context = apart(Config, "import threading"),
    ?assertEqual({ok, false}, py:eval(Context, "threading.Thread().daemon")),
    ok = py_reactor_context:stop(Context).

%% Neither one whose set-up code fails, nor one that is stopped. The thread ends when its file is gone.
a_thread_that_stays_holds_nobody_up(Config) ->
    Before = os_resources:snapshot(),
    File = filename:join(?config(priv_dir, Config), "stay"),
    ok = file:write_file(File, ""),
    SetUp = ["import apart; apart.stay_while_there_is('", File, "')\n"],
    Test = self(),
    Failing = spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {self(), py_reactor_context:start_link(new_id(), subinterp, options(Config, #{setup_code => [SetUp, "1/0"]}))}
    end),
    Id = new_id(),
    {ok, Context} = py_reactor_context:start_link(Id, subinterp, options(Config, #{setup_code => SetUp})),
    ok = log_collector:install(),
    try
        ok = py_reactor_context:stop(Context, 0),
        ?assertMatch({warning, _, _}, log_collector:await(Id, ["did not end in time"]))
    after
        log_collector:remove()
    end,
    receive
        {Failing, Answer} ->
            ?assertMatch({error, {setup_code, {python_error, #{type := <<"ZeroDivisionError">>}}}}, Answer)
    end,
    ok = file:delete(File),
    os_resources:wait_back_to(Before).

a_thread_left_behind_aborts_nothing(Config) ->
    Id = new_id(),
    {ok, Context} = py_reactor_context:start_link(Id, subinterp, options(Config, #{setup_code => "import apart"})),
    {ok, none} = py:call(Context, apart, leave_thread_behind, []),
    ok = log_collector:install(),
    try
        ok = py_reactor_context:stop(Context),
        ?assertMatch({warning, _, _}, log_collector:await(Id, ["left behind", "thread"]))
    after
        log_collector:remove()
    end,
    Other = apart(Config, "import apart"),
    ?assertEqual({ok, 1}, py:call(Other, apart, count_up, [])),
    ok = py_reactor_context:stop(Other).

%% What runs as an interpreter ends may start threads: those of `atexit' are waited for, later ones are refused.
threads_of_the_end(Config) ->
    Before = os_resources:snapshot(),
    [
        begin
            File = filename:join(?config(priv_dir, Config), Kind),
            Context = apart(Config, ["import ending; ending.", Kind, "('", File, "')"]),
            ok = py_reactor_context:stop(Context),
            wait_until(fun() -> file:read_file(File) =:= {ok, Outcome} end)
        end
     || {Kind, Outcome} <- [
            {"in_atexit", <<"done">>},
            {"in_atexit_by_an_executor", <<"refused">>},
            {"in_a_destructor", <<"refused">>},
            {"in_a_destructor_by_hand", <<"refused">>}
        ]
    ],
    os_resources:wait_back_to(Before),
    Other = apart(Config, "import apart"),
    ?assertEqual({ok, 1}, py:call(Other, apart, count_up, [])),
    ok = py_reactor_context:stop(Other).

an_end_that_never_comes_is_interrupted(Config) ->
    Before = os_resources:snapshot(),
    File = filename:join(?config(priv_dir, Config), "never"),
    Context = apart(Config, ["import ending; ending.never('", File, "')"]),
    ok = py_reactor_context:stop(Context, 0),
    wait_until(fun() -> filelib:is_file(File) end),
    os_resources:wait_back_to(Before).

%% From Python 3.14 on all memory of an interpreter stays with one block of it that stays. On 3.11 interpreters share the list of the
%% subclasses of `object'; 3.12 and 3.13 leave thousands of blocks of their own.
an_interpreter_that_ended_leaves_nothing(Config) ->
    ok = py:exec("import gc, sys"),
    Left = fun() ->
        {ok, Count} = py:eval(
            "(gc.collect(), sys.getallocatedblocks() if sys.version_info >= (3, 14) else "
            "sum(c.__module__.startswith('erlang') for c in object.__subclasses__()))[1]"
        ),
        Count
    end,
    Rounds = 10,
    Round = fun(_) -> ok = py_reactor_context:stop(apart(Config, "import erlang.reactor")) end,
    lists:foreach(Round, [1, 2, 3]),
    Before = Left(),
    lists:foreach(Round, lists:seq(1, Rounds)),
    wait_until(fun() -> Left() - Before < Rounds end).

killed_under_traffic(Config) ->
    Before = os_resources:snapshot(),
    [
        begin
            Context = apart(Config, reactor_test:factory("apart.Keeper")),
            Clients = [element(1, client(Context, Config)) || _ <- lists:seq(1, 20)],
            [echoes(Client) || Client <- Clients],
            [send(Client, binary:copy(<<"x">>, 10000)) || Client <- Clients],
            exit(Context, kill),
            [begin wait_end(Client), gen_tcp:close(Client) end || Client <- Clients]
        end
     || _ <- lists:seq(1, 10)
    ],
    os_resources:wait_back_to(Before).

wait_end(Client) ->
    case gen_tcp:recv(Client, 0, 30000) of
        {ok, _} -> wait_end(Client);
        {error, Reason} -> ?assert(lists:member(Reason, [closed, econnreset]))
    end.

%% While another context serves all the time.
two_hundred_under_traffic(Config) ->
    Steady = apart(Config, reactor_test:factory("streams.Echo")),
    {Client, _} = client(Steady, Config),
    Traffic = spawn_link(fun() -> receive go -> chat(Client) end end),
    ok = gen_tcp:controlling_process(Client, Traffic),
    Traffic ! go,
    Before = os_resources:snapshot(),
    [one_life(Config) || _ <- lists:seq(1, 200)],
    os_resources:wait_back_to(Before),
    Traffic ! {stop, self()},
    receive
        {chats, Count} -> ct:comment("~b round trips meanwhile", [Count])
    end,
    ok = py_reactor_context:stop(Steady, 100).

one_life(Config) ->
    Context = apart(Config, reactor_test:factory("streams.Echo")),
    {Client, _} = client(Context, Config),
    echoes(Client),
    gen_tcp:close(Client),
    ok = py_reactor_context:stop(Context).

chat(Client) ->
    chat(Client, 0).

chat(Client, Count) ->
    receive
        {stop, From} -> From ! {chats, Count}
    after 0 ->
        echoes(Client),
        chat(Client, Count + 1)
    end.

a_hundred_at_a_time(Config) ->
    Before = os_resources:snapshot(),
    Contexts = [apart(Config, reactor_test:factory("streams.Echo")) || _ <- lists:seq(1, 100)],
    Clients = [element(1, client(C, Config)) || C <- Contexts],
    [echoes(Client) || _ <- [1, 2], Client <- Clients],
    [gen_tcp:close(Client) || Client <- Clients],
    [ok = py_reactor_context:stop(C, 100) || C <- Contexts],
    os_resources:wait_back_to(Before).

by_start_contexts(Config) ->
    _ = [py_reactor_context:stop(C) || C <- py:contexts()],
    {ok, [One, Two]} = py:start_contexts(options(Config, #{count => 2, mode => subinterp, setup_code => "import apart"})),
    [?assertEqual({ok, 1}, py:call(C, apart, count_up, [])) || C <- [One, Two]],
    exit(One, kill),
    wait_until(fun() ->
        case py_reactor_table:pid(1) of
            {ok, Pid} when Pid =/= One -> true;
            _ -> false
        end
    end),
    ?assertEqual({ok, 1}, py:call(1, apart, count_up, [])),
    ?assertEqual({ok, 2}, py:call(2, apart, count_up, [])),
    [ok = py_reactor_context:stop(C) || C <- [1, 2]].

%% An interpreter of its own has them for itself: neither the process nor another one sees them.
environment_variables(_Config) ->
    Name = unset_variable(),
    Start = fun(Variables) ->
        %% Set-up code finds them.
        SetUp = ["import os\nfound = os.environ.get('", Name, "')\n"],
        {ok, Context} = py_reactor_context:start_link(new_id(), subinterp, #{env => Variables, setup_code => SetUp}),
        Context
    end,
    One = Start(#{Name => "one 日本", <<"HOME">> => false}),
    Two = Start([{Name, <<"two">>}, {"NEVER" ++ Name, false}]),
    None = Start(#{}),
    [
        ?assertEqual({ok, {Value, Value, Home}}, py:eval(Context, ["(found, os.environ.get('", Name, "'), 'HOME' in os.environ)"]))
     || {Context, Value, Home} <- [{One, <<"one 日本"/utf8>>, false}, {Two, <<"two">>, true}, {None, none, true}]
    ],
    ?assertEqual({ok, {<<"one 日本"/utf8>>, true}}, py:eval(One, ["(os.getenv('", Name, "'), os.environb[b'", Name, "'] == found.encode())"])),
    ?assertEqual({ok, none}, in_process(Name)),
    ?assertMatch({ok, <<_, _/binary>>}, in_process("HOME")),
    [ok = py_reactor_context:stop(Context) || Context <- [One, Two, None]].

%% They share the process's, and so does C code.
environment_variables_of_workers(_Config) ->
    Name = unset_variable(),
    Look = ["__import__('os').environ.get('", Name, "')"],
    Start = fun(Variables) -> {ok, _} = py_reactor_context:start_link(new_id(), worker, #{env => Variables}) end,
    {ok, One} = Start(#{Name => "one"}),
    ?assertEqual({{ok, <<"one">>}, {ok, <<"one">>}}, {py:eval(One, Look), in_process(Name)}),
    {ok, Two} = Start([{Name, "two"}]),
    ?assertEqual([{ok, <<"two">>}, {ok, <<"two">>}, {ok, <<"two">>}], [in_process(Name) | [py:eval(Context, Look) || Context <- [One, Two]]]),
    {ok, Three} = Start(#{Name => false}),
    ?assertEqual([{ok, none}, {ok, none}], [in_process(Name), py:eval(One, Look)]),
    %% All that Erlang has.
    true = os:putenv(Name, "of Erlang"),
    {ok, Four} = Start(os:env()),
    ?assertEqual({{ok, <<"of Erlang">>}, {ok, <<"of Erlang">>}}, {py:eval(One, Look), in_process(Name)}),
    true = os:unsetenv(Name),
    [ok = py_reactor_context:stop(Context) || Context <- [One, Two, Three, Four]].

unset_variable() ->
    "PY_REACTOR_TEST_" ++ integer_to_list(new_id()).

%% What C code finds.
in_process(Name) ->
    ok = py:exec("import ctypes; getenv = ctypes.pythonapi['getenv']; getenv.restype = ctypes.c_char_p"),
    py:eval(["(lambda value: value and value.decode())(getenv(b'", Name, "'))"]).
