%% What Python code is refused because it would harm the VM, in every interpreter and on every thread.
-module(safety_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(OWN_ALL, true).
-include("reactor_suite.hrl").

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()] ++ [the_setting_is_checked].

groups() ->
    reactor_test:backend_groups([
        what_breaks_the_vm_is_refused,
        programs_are_refused,
        threads_are_refused_too,
        libraries_that_look_for_a_program_go_on,
        programs_may_be_allowed
    ]).

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Config.

end_per_testcase(_Case, _Config) ->
    ok.

what_breaks_the_vm_is_refused(Config) ->
    with_safety(Config, fun breaks_nothing/1).

breaks_nothing(Context) ->
    [refused(Context, Name) || Name <- [fork, execv, execve, execvp, spawnv, pty_spawn, multiprocessing_fork]],
    %% Outside the main interpreter CPython itself refuses this one first.
    [?assertMatch({ok, {Error, _}} when Error =/= <<"nothing">>, attempt(Context, Name)) || Name <- [forkpty, pty_fork]].

programs_are_refused(Config) ->
    with_safety(Config, fun(Context) ->
        [
            ?assertNotEqual(nomatch, string:find(refused(Context, Name), "allow_subprocess"))
         || Name <- [popen, os_popen, system, posix_spawn, posix_spawnp, asyncio_subprocess]
        ]
    end).

threads_are_refused_too(Config) ->
    with_safety(Config, fun(Context) ->
        {ok, Message} = py:call(Context, safety, in_a_thread, [fork]),
        ?assertNotEqual(nomatch, string:find(Message, "open_port"))
    end).

%% They look for an OSError.
libraries_that_look_for_a_program_go_on(Config) ->
    with_safety(Config, fun(Context) ->
        ?assertMatch({ok, _}, py:call(Context, safety, look_for_a_program, []))
    end).

programs_may_be_allowed(Config) ->
    reactor_test:allowing_subprocess(fun() ->
        with_safety(Config, fun(Context) ->
            ?assertEqual({ok, <<"42">>}, py:call(Context, safety, output_of, [[<<"echo">>, <<"-n">>, <<"42">>]])),
            breaks_nothing(Context)
        end)
    end).

the_setting_is_checked(_Config) ->
    ok = application:stop(py_reactor),
    ok = application:set_env(py_reactor, allow_subprocess, yes),
    try
        {error, {py_reactor, {Reason, _}}} = application:ensure_all_started(py_reactor),
        ?assertMatch({bad_option, allow_subprocess, yes, _}, Reason)
    after
        ok = application:unset_env(py_reactor, allow_subprocess)
    end.

%% The message, which names the way of Erlang.
refused(Context, Name) ->
    Result = attempt(Context, Name),
    ?assertMatch({Name, {ok, {<<"PermissionError">>, _}}}, {Name, Result}),
    {ok, {_, Message}} = Result,
    ?assertNotEqual({Name, nomatch}, {Name, string:find(Message, "open_port")}),
    ?assertEqual({ok, 2}, py:eval(Context, "1 + 1")),
    Message.

attempt(Context, Name) ->
    py:call(Context, safety, attempt, [Name]).

with_safety(Config, Fun) ->
    reactor_test:with_context(Config, #{setup_code => "import safety"}, Fun).
