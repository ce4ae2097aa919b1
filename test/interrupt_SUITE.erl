%% Python code that does not return is interrupted, and what is slow is named.
-module(interrupt_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, client/3, send/2, expect/2, expect_eof/1, with_context/3, serving/4, wait_until/1, wait_until/2]).

-define(INTERRUPTED, {error, {python_error, #{type := <<"erlang.reactor.Interrupted">>}}}).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        endless_callbacks,
        an_endless_message,
        an_idle_loop_of_ones_own,
        what_others_wait_for_arrives,
        endless_requests,
        what_is_traced_runs_after_an_interrupt,
        imports_go_on_after_an_interrupt,
        idle_contexts_say_so,
        what_came_too_late_reaches_nobody,
        a_sleep_ends_first,
        at_any_moment,
        a_context_may_end_meanwhile,
        no_context,
        what_never_returns_is_told_of_once,
        within_the_limit_nothing_is_said,
        what_is_left_of_callbacks,
        what_is_left_of_requests,
        what_is_left_is_found_slow
    ], [], [
        endless_steps,
        slow_callbacks_are_named,
        set_up_code_that_never_returns
    ]).

%% Each costs its own connection; another one is served on.
endless_callbacks(Config) ->
    serving(Config, "endless.Endless", #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Other, _} = client(Context, Config, #{endless => none}),
        [
            begin
                Flag = unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())),
                {Client, _} = client(Context, Config, #{endless => Method, flag => Flag}),
                send(Client, <<"x">>),
                ok = gen_tcp:shutdown(Client, write),
                wait_until(fun() -> filelib:is_file(Flag) end),
                ok = py_reactor_context:interrupt(Context),
                {error, _, #{method := Method}} = log_collector:await(Id, ["Interrupted", "_spin"]),
                _ = reactor_test:receive_all(Client),
                send(Other, <<"still served">>),
                expect(Other, <<"still served">>)
            end
         || Method <- [<<"connection_made">>, <<"data_received">>, <<"write_ready">>, <<"eof_received">>, <<"connection_lost">>]
        ]
    end).

an_endless_message(Config) ->
    serving(Config, "endless.Endless", #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Flag = unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())),
        {Client, _} = client(Context, Config, #{endless => <<"message_received">>, flag => Flag}),
        [#{connection := Connection}] = py_reactor_context:connections(Context),
        _ = spawn_link(fun() -> py_reactor_context:notify(Context, Connection, go) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        try
            ?assertEqual(ok, py_reactor_context:interrupt(Context))
        catch
            %% Nothing else would end it, and the context must not outlive the case.
            error:Reason:Stack ->
                exit(Context, kill),
                erlang:raise(error, Reason, Stack)
        end,
        {error, _, #{method := <<"message_received">>}} = log_collector:await(Id, ["Interrupted", "_spin"]),
        expect_eof(Client)
    end).

%% Of tasks: of a cast, of the context, and of a connection's callback, which alone costs that.
endless_steps(Config) ->
    serving(Config, "endless.EndlessTask", #{slow_callback_ms => 20}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Other, _} = client(Context, Config, #{flag => none}),
        [
            begin
                Flag = flag(Config),
                Begin(Context, Flag),
                wait_until(fun() -> filelib:is_file(Flag) end),
                {warning, _, _} = log_collector:await(Id, ["has not returned", "interrupt/1"]),
                ?assertEqual(ok, py_reactor_context:interrupt(Context)),
                {error, _, _} = log_collector:await(Id, ["Interrupted", "_spin"]),
                send(Other, <<"still served">>),
                expect(Other, <<"still served">>)
            end
         || Begin <- [
                fun(C, Flag) -> ok = py:cast(C, endless, spin_in_a_step, [Flag]) end,
                fun(C, Flag) -> {ok, none} = py:call(C, endless, spawn_spin, [Flag]) end,
                fun(C, Flag) -> {Client, _} = client(C, Config, #{flag => Flag}), send(Client, <<"x">>) end
            ]
        ],
        wait_until(fun() -> length(py_reactor_context:connections(Context)) =:= 1 end)
    end).

%% It waits in the kernel, and is woken.
an_idle_loop_of_ones_own(Config) ->
    with_context(Config, #{setup_code => "import asyncio, erlang"}, fun(Context) ->
        [
            begin
                ok = End(fun(Flag, Timeout) ->
                    Code = ["async def idle():\n    open('", Flag, "', 'x').close()\n    await asyncio.sleep(3600)\n",
                        "loop = erlang.new_event_loop()\ntry:\n    loop.run_until_complete(idle())\nfinally:\n    loop.close()"],
                    py:exec(Context, Code, Timeout)
                end),
                ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
            end
         || End <- [
                fun(Run) ->
                    Flag = flag(Config),
                    Request = request(fun() -> Run(Flag, infinity) end),
                    wait_until(fun() -> filelib:is_file(Flag) end),
                    interrupt(Context),
                    ?assertMatch({error, {python_error, _}}, answer(Request)),
                    ok
                end,
                fun(Run) -> times_out(Config, Run, 1000) end
            ]
        ]
    end).

%% On a busy machine the time may be over before it has come so far.
times_out(Config, Run, Ms) ->
    Flag = flag(Config),
    ?assertEqual({error, timeout}, Run(Flag, Ms)),
    case filelib:is_file(Flag) of
        true -> ok;
        false -> times_out(Config, Run, 4 * Ms)
    end.

%% An interrupt ends what waits, or nothing: what tells it that it need not wait any more goes on.
what_others_wait_for_arrives(Config) ->
    Name = reactor_test:tag(),
    ok = py:register_function(Name, fun(Value) -> Value end),
    with_endless(Config, fun(Context) ->
        Flag = flag(Config),
        Asked = request(fun() -> py:call(Context, endless, ask_erlang, [Name, Flag]) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        ok = py_reactor_context:interrupt(Context),
        ?assertEqual({ok, 7}, answer(Asked)),
        [Begun, Go] = [flag(Config), flag(Config)],
        Told = request(fun() -> py:call(Context, endless, told_by_asyncio, [Begun, Go]) end),
        wait_until(fun() -> filelib:is_file(Begun) end),
        ?assertEqual({error, idle}, py_reactor_context:interrupt(Context)),
        ok = file:write_file(Go, <<>>),
        ?assertEqual({ok, <<"told">>}, answer(Told)),
        %% What is called there may be anybody's.
        Spins = flag(Config),
        Spun = request(fun() -> py:call(Context, endless, spun_by_asyncio, [Spins]) end),
        wait_until(fun() -> filelib:is_file(Spins) end),
        ok = py_reactor_context:interrupt(Context),
        ?assertEqual({ok, <<"told">>}, answer(Spun))
    end),
    py:unregister_function(Name).

endless_requests(Config) ->
    with_endless(Config, fun(Context) ->
        [
            begin
                Flag = flag(Config),
                Request = request(fun() -> py:call(Context, endless, Function, [Flag]) end),
                wait_until(fun() -> filelib:is_file(Flag) end),
                ok = py_reactor_context:interrupt(Context),
                ?assertMatch({Function, ?INTERRUPTED}, {Function, answer(Request)}),
                ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
            end
         || Function <- [spin, stubborn, spin_async]
        ]
    end).

%% What was interrupted may have CPython's lock of imports: until 3.11 that is one for all interpreters.
imports_go_on_after_an_interrupt(Config) ->
    with_endless(Config, fun(Context) ->
        Flag = flag(Config),
        Request = request(fun() -> py:call(Context, endless, spin_with_the_lock_of_imports, [Flag]) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        ok = py_reactor_context:interrupt(Context),
        ?assertMatch(?INTERRUPTED, answer(Request)),
        Import = "import sys\nsys.modules.pop('colorsys', None)\nimport colorsys",
        with_context(Config, #{start_timeout_ms => 20000}, fun(Other) ->
            [?assertEqual(ok, py:exec(Each, Import, 20000)) || Each <- [Other, Context]]
        end)
    end).

%% What was interrupted leaves nothing behind that the interpreter would look for at each step.
what_is_traced_runs_after_an_interrupt(Config) ->
    with_endless(Config, fun(Context) ->
        Flag = flag(Config),
        Request = request(fun() -> py:call(Context, endless, spin, [Flag]) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        ok = py_reactor_context:interrupt(Context),
        ?assertMatch(?INTERRUPTED, answer(Request)),
        ?assertEqual({ok, 2}, py:call(Context, endless, traced, [], #{}, 30000))
    end).

idle_contexts_say_so(Config) ->
    with_endless(Config, fun(Context) ->
        ?assertEqual({error, idle}, py_reactor_context:interrupt(Context)),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

%% A function in C, called without a step of Python code after it: the exception finds nothing to be raised in.
what_came_too_late_reaches_nobody(Config) ->
    with_endless(Config, fun(Context) ->
        {Reading, LetGo} = held_by_a_pipe(Config, Context),
        Request = request(fun() -> py:call(Context, os, read, [Reading, 1]) end),
        ok = interrupt(Context),
        LetGo(),
        ?assertEqual({ok, <<"x">>}, answer(Request)),
        {ok, none} = py:call(Context, os, close, [Reading]),
        ?assertEqual({ok, 5050}, py:eval(Context, "sum([n for n in range(101)])"))
    end).

a_sleep_ends_first(Config) ->
    with_endless(Config, fun(Context) ->
        {Reading, LetGo} = held_by_a_pipe(Config, Context),
        Flag = flag(Config),
        Request = request(fun() -> py:call(Context, endless, read_and_go_on, [Reading, Flag]) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        ok = py_reactor_context:interrupt(Context),
        LetGo(),
        ?assertMatch(?INTERRUPTED, answer(Request)),
        {ok, none} = py:call(Context, os, close, [Reading])
    end).

%% The end of a pipe that nothing can be read from, and what puts a byte into it, by the thread of another context.
held_by_a_pipe(Config, Context) ->
    {ok, {Reading, Writing}} = py:eval(Context, "__import__('os').pipe()"),
    {Reading, fun() ->
        with_context(Config, #{}, fun(Other) ->
            {ok, 1} = py:call(Other, os, write, [Writing, {bytes, <<"x">>}]),
            {ok, none} = py:call(Other, os, close, [Writing])
        end)
    end}.

%% While requests come and go: each is interrupted once at most, and only if somebody was told that it is.
at_any_moment(Config) ->
    with_endless(Config, fun(Context) ->
        Requests = request(fun() -> [py:eval(Context, "sum([n for n in range(20)])") || _ <- lists:seq(1, 3000)] end),
        Hits = hits(Context, Requests, 0),
        Results = answer(Requests),
        Interrupted = [Result || ?INTERRUPTED = Result <- Results],
        ct:log("~b interrupts, ~b requests interrupted", [Hits, length(Interrupted)]),
        ?assert(length(Interrupted) =< Hits),
        ?assertEqual([], [Result || Result <- Results -- Interrupted, Result =/= {ok, 190}]),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

hits(Context, {Pid, _} = Requests, Hits) ->
    case is_process_alive(Pid) of
        true ->
            case py_reactor_context:interrupt(Context) of
                ok -> hits(Context, Requests, Hits + 1);
                {error, idle} -> hits(Context, Requests, Hits)
            end;
        false ->
            Hits
    end.

a_context_may_end_meanwhile(Config) ->
    [
        with_endless(Config, fun(Context) ->
            Interrupts = [request(fun() -> interrupt_to_the_end(Context) end) || _ <- [1, 2]],
            [py:cast(Context, endless, spin, []) || _ <- lists:seq(1, 20)],
            ok = py_reactor_context:stop(Context, 100),
            [?assertMatch({error, _}, answer(Request)) || Request <- Interrupts]
        end)
     || _ <- lists:seq(1, 5)
    ].

interrupt_to_the_end(Context) ->
    case py_reactor_context:interrupt(Context) of
        ok -> interrupt_to_the_end(Context);
        {error, Again} when Again =:= idle; Again =:= busy -> interrupt_to_the_end(Context);
        {error, _} = Error -> Error
    end.

no_context(_Config) ->
    ?assertEqual({error, {no_context, 999999}}, py_reactor_context:interrupt(999999)).

%% More than once, with time to fall asleep in between for what watches. It is told of who has not returned for ten times as
%% long: so who watches has looked.
slow_callbacks_are_named(Config) ->
    serving(Config, "endless.Slow", #{slow_callback_ms => 20}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {Client, _} = client(Context, Config),
        [
            begin
                receive after 200 -> ok end,
                Flag = flag(Config),
                send(Client, Flag),
                [{warning, _, _} = log_collector:await(Id, [Text]) || Text <- ["sleeps", "has not returned"]],
                ok = file:write_file(Flag, <<>>),
                expect(Client, <<"awake">>),
                {warning, Line, Meta} = log_collector:await(Id, ["endless.Slow.data_received", " ms"]),
                ?assertMatch(#{class := <<"endless.Slow">>, method := <<"data_received">>, fd := Fd} when Fd > 2, Meta),
                {match, [Ms]} = re:run(Line, "at least (\\d+) ms", [{capture, [1], list}]),
                ?assert(list_to_integer(Ms) >= 20)
            end
         || _ <- [1, 2, 3]
        ]
    end).

%% While it runs: there may be no end.
what_never_returns_is_told_of_once(Config) ->
    with_context(Config, #{slow_callback_ms => 20, setup_code => "import endless, time"}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Asked = request(fun() -> py:exec(Context, "import logging\nlogging.warning('begins')\nwhile True: pass") end),
        [{warning, _, _} = log_collector:await(Id, Texts) || Texts <- [["begins"], ["has not returned", "interrupt/1"]]],
        receive after 500 -> ok end,
        ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, "has not returned") =/= nomatch]),
        ok = py_reactor_context:interrupt(Context),
        ?assertMatch({error, {python_error, _}}, answer(Asked))
    end).

within_the_limit_nothing_is_said(Config) ->
    [
        serving(Config, "endless.Slow", #{slow_callback_ms => Limit}, fun(Context) ->
            {Client, _} = client(Context, Config),
            Flag = flag(Config),
            send(Client, Flag),
            receive after 200 -> ok end,
            ok = file:write_file(Flag, <<>>),
            expect(Client, <<"awake">>),
            {ok, _} = py:eval(Context, "1"),
            ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, "endless.Slow") =/= nomatch])
        end)
     || Limit <- [86400000, infinity]
    ].

%% Destructors, and the text of exceptions and answers: each costs its own connection, and an interrupt ends it.
what_is_left_of_callbacks(Config) ->
    serving(Config, "endless.Unending", #{}, fun(Context) ->
        {Other, _} = client(Context, Config, #{kind => none}),
        [
            begin
                Flag = flag(Config),
                {Client, _} = client(Context, Config, #{kind => Kind, flag => Flag}),
                send(Client, <<"x">>),
                ok = gen_tcp:shutdown(Client, write),
                wait_until({runs, Kind}, fun() -> filelib:is_file(Flag) end),
                ?assertEqual({Kind, ok}, {Kind, py_reactor_context:interrupt(Context)}),
                _ = reactor_test:receive_all(Client),
                send(Other, <<"still served">>),
                expect(Other, <<"still served">>)
            end
         || Kind <- [text, answer, instance, client_info, write_buffer, message]
        ]
    end).

what_is_left_of_requests(Config) ->
    with_endless(Config, fun(Context) ->
        [
            begin
                Flag = flag(Config),
                Request = request(fun() -> Ask(Context, Flag) end),
                wait_until(fun() -> filelib:is_file(Flag) end),
                ?assertEqual(ok, py_reactor_context:interrupt(Context)),
                ?assertMatch({error, _}, answer(Request)),
                ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
            end
         || Ask <- [
                fun(C, Flag) -> py:call(C, endless, no_text, [Flag]) end,
                fun(C, Flag) -> py:call(C, endless, no_result, [Flag]) end,
                fun(C, Flag) -> py:call(C, endless, no_end, [Flag]) end
            ]
        ]
    end).

what_is_left_is_found_slow(Config) ->
    serving(Config, "endless.Unending", #{slow_callback_ms => 20}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Flag = flag(Config),
        {Client, _} = client(Context, Config, #{kind => instance, flag => Flag}),
        send(Client, <<"x">>),
        ok = gen_tcp:shutdown(Client, write),
        [{warning, _, _} = log_collector:await(Id, Texts) || Texts <- [["spins"], ["has not returned", "interrupt/1"]]],
        ok = py_reactor_context:interrupt(Context),
        {warning, _, _} = log_collector:await(Id, ["outside of callbacks", " ms"]),
        expect_eof(Client)
    end).

%% The thread ends, too, and what it had.
set_up_code_that_never_returns(Config) ->
    Before = os_resources:snapshot(),
    ok = starts_never(Config, 3000),
    os_resources:wait_back_to(Before).

%% On a busy machine the time may be over before that code runs.
starts_never(Config, Ms) ->
    Flag = flag(Config),
    SetUp = ["open('", Flag, "', 'x').close()\nwhile True: pass"],
    Options = reactor_test:options(Config, #{setup_code => SetUp, start_timeout_ms => Ms}),
    ?assertEqual(
        {error, {start_timeout, Ms}},
        py_reactor_context:start_link(reactor_test:new_id(), reactor_test:mode(Config), Options)
    ),
    case filelib:is_file(Flag) of
        true -> ok;
        false -> starts_never(Config, 4 * Ms)
    end.

flag(Config) ->
    unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())).

with_endless(Config, Fun) ->
    with_context(Config, #{setup_code => "import endless, time"}, Fun).

%% As soon as something runs.
interrupt(Context) ->
    wait_until(fun() ->
        case py_reactor_context:interrupt(Context) of
            ok -> true;
            {error, idle} -> false
        end
    end).

request(Fun) ->
    spawn_monitor(fun() -> exit({answer, Fun()}) end).

answer({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer
    after 60000 -> error(no_answer)
    end.
