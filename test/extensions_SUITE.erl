% Extension modules in interpreters of contexts' own: which are refused, and that none ends the VM.
-module(extensions_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [new_id/0, options/2, apart/2, has_own_gil/0]).

all() ->
    [
        modules_that_refuse_are_errors,
        modules_that_refuse_may_be_asked_again,
        dates_in_an_interpreter_of_its_own,
        every_extension_module_in_two_that_end,
        an_extension_module_whose_initialisation_raises,
        modules_of_one_interpreter_are_refused
    ].

init_per_testcase(_Case, Config) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    process_flag(trap_exit, true),
    [{backend, auto} | Config].

end_per_testcase(_Case, _Config) ->
    ok.

%% Some module of the standard library cannot be in two interpreters; which one, depends on the Python.
modules_that_refuse_are_errors(Config) ->
    Context = apart(Config, ""),
    Refusing = [
        Module
     || has_own_gil(),
        Module <- ["readline", "_ctypes", "_decimal", "_curses", "_tkinter", "_datetime", "_pickle"],
        {error, {python_error, #{type := <<"ImportError">>, message := Why}}} <- [py:exec(Context, ["import ", Module])],
        binary:match(Why, <<"subinterpreters">>) =/= nomatch
    ],
    [
        ?assertMatch(
            {error, {setup_code, {python_error, #{type := <<"ImportError">>}}}},
            py_reactor_context:start_link(new_id(), subinterp, options(Config, #{setup_code => ["import ", Module]}))
        )
     || Module <- Refusing
    ],
    ?assertEqual({ok, 3}, py:eval(Context, "1 + 2")),
    ok = py_reactor_context:stop(Context),
    has_own_gil() andalso Refusing =:= [] andalso ct:comment("every module is fine in every interpreter").

%% Their initialisation must not run twice: it ruins what it has set up before.
modules_that_refuse_may_be_asked_again(Config) ->
    [
        begin
            Context = apart(Config, "import decimal"),
            ?assertEqual({ok, <<"0.3">>}, py:eval(Context, "str(decimal.Decimal('0.1') + decimal.Decimal('0.2'))")),
            [py:exec(Context, ["import ", Module]) || Module <- ["readline", "_ctypes", "_curses", "_datetime", "_pickle"]],
            ok = py_reactor_context:stop(Context)
        end
     || _ <- lists:seq(1, 5)
    ].

%% On Python 3.12 they are made without what is in C, whose insides nobody must look for: asyncpg would end the VM by that.
dates_in_an_interpreter_of_its_own(Config) ->
    Context = apart(Config, "import datetime, zoneinfo"),
    Date = <<"datetime.datetime(2026, 11, 26, tzinfo=datetime.timezone.utc).isoformat()">>,
    ?assertEqual({ok, <<"2026-11-26T00:00:00+00:00">>}, py:eval(Context, Date)),
    case py:eval(Context, "__import__('sys').version_info[:2] == (3, 12)") of
        {ok, true} ->
            {error, {python_error, #{type := <<"ImportError">>, message := Why}}} = py:exec(Context, "import _zoneinfo"),
            ?assertNotEqual(nomatch, string:find(Why, "worker"));
        {ok, false} ->
            ?assertEqual(ok, py:exec(Context, "import _zoneinfo"))
    end,
    ok = py_reactor_context:stop(Context).

%% Some share more between interpreters than they may, and tear it down with the last of them. In another VM: this one has
%% loaded some of them elsewhere, and is to live on.
every_extension_module_in_two_that_end(_Config) ->
    Code = "extensions_SUITE:use_every_extension_module()",
    {Port, _} = interpreter_SUITE:vm(["-pa", filename:dirname(code:which(?MODULE))], Code, []),
    Count = interpreter_SUITE:line(Port, "extension modules used: "),
    ?assertEqual(0, interpreter_SUITE:exit_status(Port)),
    ct:comment("~s modules", [Count]).

use_every_extension_module() ->
    {ok, _} = application:ensure_all_started(py_reactor),
    [One, Two] = [apart([{backend, auto}], "import extensions") || _ <- [1, 2]],
    [{ok, Count}, {ok, Count}] = [py:call(C, extensions, use_all, []) || C <- [One, Two]],
    ok = py_reactor_context:stop(One),
    {ok, Count} = py:call(Two, extensions, use_all, []),
    ok = py_reactor_context:stop(Two),
    Three = apart([{backend, auto}], "import extensions"),
    {ok, Count} = py:call(Three, extensions, use_all, []),
    ok = py_reactor_context:stop(Three),
    io:format("~nextension modules used: ~b~n", [Count]),
    halt(0).

%% Python 3.13 ends the process at this; so in another VM.
an_extension_module_whose_initialisation_raises(Config) ->
    Directory = ?config(priv_dir, Config),
    Source = filename:join(Directory, "raises.c"),
    ok = file:write_file(Source, [
        "extern void *PyExc_ImportError;\n"
        "void PyErr_SetString(void *, const char *);\n"
        "void *PyInit_raises(void) { PyErr_SetString(PyExc_ImportError, \"on purpose\"); return 0; }\n"
    ]),
    "" = os:cmd(lists:flatten(["cc -shared -fPIC -o '", filename:join(Directory, "raises.so"), "' '", Source, "'"])),
    Code = lists:flatten(io_lib:format("extensions_SUITE:import_what_raises(~p)", [Directory])),
    {Port, _} = interpreter_SUITE:vm(["-pa", filename:dirname(code:which(?MODULE))], Code, []),
    ?assertNotEqual(nomatch, string:find(interpreter_SUITE:line(Port, "refused: "), "on purpose")),
    ?assertEqual(0, interpreter_SUITE:exit_status(Port)).

import_what_raises(Directory) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Context = apart([{backend, auto}], ["import sys; sys.path.append('", Directory, "')"]),
    %% Asked again, it is refused again.
    [Why, Why, Why] = [
        begin
            {error, {python_error, #{type := <<"ImportError">>, message := Message}}} = py:exec(Context, "import raises"),
            Message
        end
     || _ <- lists:seq(1, 3)
    ],
    {ok, 3} = py:eval(Context, "1 + 2"),
    ok = py_reactor_context:stop(Context),
    io:format("~nrefused: ~s~n", [Why]),
    halt(0).

%% Before it is loaded, which would take it away from all others.
modules_of_one_interpreter_are_refused(Config) ->
    Directory = filename:absname(?config(priv_dir, Config)),
    [
        begin
            ok = file:write_file(filename:join(Directory, Name ++ ".so"), ["no library, but ", Text]),
            {error, {setup_code, {python_error, #{type := <<"ImportError">>, message := Message}}}} =
                py_reactor_context:start_link(new_id(), subinterp, #{python_path => [Directory], setup_code => "import " ++ Name}),
            ?assertEqual(not has_own_gil(), string:find(Message, "mode worker") =/= nomatch, Message)
        end
     || {Name, Text} <- [
            {"like_numpy", "cannot load module more than once per process"},
            {"by_cython", "Interpreter change detected - this module can only be loaded into one interpreter per process."},
            {"by_pyo3", "PyO3 modules do not yet support subinterpreters, see https://github.com/PyO3/pyo3/issues/576"}
        ]
    ].
