%% Coroutines on a context's event loop: those that Erlang calls, and those of protocols.
-module(await_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, client/2, send/2, expect/2, wait_until/1, wait_equal/2]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        calls_are_served_together,
        connections_are_served_meanwhile,
        a_call_ends_as_its_coroutine_does,
        a_call_whose_time_is_over_is_cancelled,
        a_caller_that_dies_cancels_its_call,
        who_is_cancelled_by_others_hears_so,
        casts_are_tasks,
        stop_answers_everybody,
        a_loop_of_its_own_in_a_call
    ]).

%% A thousand sleeps take as long as one, not a thousand times as long.
calls_are_served_together(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, 0} = call(Context, sleep, [0.5, 0]),
        {One, {ok, 1}} = timer:tc(fun() -> call(Context, sleep, [0.5, 1]) end),
        Numbers = lists:seq(1, 1000),
        {All, Answers} = timer:tc(fun() -> answers([asked(Context, sleep, [0.5, N]) || N <- Numbers]) end),
        ?assertEqual([{ok, N} || N <- Numbers], Answers),
        ?assert(All < 20 * One, {All, One}),
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
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual({error, timeout}, py:call(Context, awaits, hold_on, [register_self()], #{}, 200)),
        [said(What) || What <- [<<"begun">>, <<"cancelled">>]],
        ?assertEqual({ok, 1}, py:call(Context, awaits, sleep, [0.001, 1], #{}, 60000)),
        wait_equal({ok, 0}, fun() -> call(Context, tasks, []) end)
    end).

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

call(Context, Function, Args) ->
    py:call(Context, awaits, Function, Args).

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

register_self() ->
    Name = "await_test_" ++ integer_to_list(erlang:unique_integer([positive])),
    true = register(list_to_atom(Name), self()),
    list_to_binary(Name).

said(What) ->
    receive
        What -> ok
    after 20000 -> error({never_said, What})
    end.
