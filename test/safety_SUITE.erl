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
        programs_may_be_allowed,
        the_fork_server_is_refused,
        workers_tell_how_they_ended
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
            breaks_nothing(Context),
            %% What Python's documentation says of them.
            ?assertEqual({ok, [7, -15, 0]}, py:call(Context, safety, statuses_of_programs, [])),
            ?assertEqual({ok, 7}, py:call(Context, safety, status_of_worker, [<<"forkserver">>]))
        end)
    end).

%% It is a program, too, but of its start Python announces nothing that tells it from others.
the_fork_server_is_refused(Config) ->
    with_safety(Config, fun(Context) ->
        [
            ?assertNotEqual(nomatch, string:find(refused(Context, Name), "get_context('spawn')"))
         || Name <- [forkserver, forkserver_pool, forkserver_preload]
        ]
    end).

%% And the VM still sees how the programs of its ports end.
workers_tell_how_they_ended(Config) ->
    with_safety(Config, fun(Context) ->
        Ports = [port_that_ends_with(Status) || Status <- lists:seq(0, 20)],
        ?assertEqual({ok, 7}, py:call(Context, safety, status_of_worker, [<<"spawn">>])),
        [
            receive
                {Port, {exit_status, Ended}} -> ?assertEqual(Status, Ended)
            after 30000 -> error({silent, Status})
            end
         || {Port, Status} <- Ports
        ],
        ?assertEqual("heard", os:cmd("printf heard")),
        case has_daemon_threads(Config, Context) of
            true -> ?assertEqual({ok, [1, 4, 9]}, py:call(Context, safety, pool_that_replaces_workers, []));
            false -> ?assertMatch({error, {python_error, #{type := <<"RuntimeError">>}}}, py:call(Context, safety, pool_that_replaces_workers, []))
        end
    end).

port_that_ends_with(Status) ->
    Command = io_lib:format("sleep 0.~b; exit ~b", [Status rem 3, Status]),
    {open_port({spawn_executable, "/bin/sh"}, [{args, ["-c", lists:flatten(Command)]}, exit_status]), Status}.

%% A pool is made of them. CPython has none in an interpreter of its own from 3.12 on.
has_daemon_threads(Config, Context) ->
    {ok, New} = py:eval(Context, "__import__('sys').version_info >= (3, 12)"),
    reactor_test:mode(Config) =:= worker orelse not New.

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
