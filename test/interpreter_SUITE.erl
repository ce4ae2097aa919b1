%% The interpreter inside the VM: what can be imported, what it knows of itself, and what it leaves to the VM.
%%
%% Where the start of a VM matters, another VM is started.
-module(interpreter_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() ->
    [
        extension_modules,
        executable,
        version,
        path,
        setup_code_of_a_context_is_its_own,
        print_appears_in_a_pipe,
        printed_on_the_console_once_and_logged,
        lines_do_not_mix,
        a_slow_console_loses_nothing,
        sigint_is_left_to_the_vm,
        sigterm_closes_connections_properly,
        halt_with_connections_open,
        works_from_any_directory
    ].

extension_modules(Config) ->
    with_context(Config, fun(Context) ->
        [
            ?assertEqual({Module, ok}, {Module, py:exec(Context, ["import ", Module])})
         || Module <- ["ssl", "_ctypes", "ctypes", "decimal", "sqlite3", "hashlib", "zlib", "asyncio", "_json", "array", "mmap", "select"]
        ],
        ?assertEqual({ok, <<"0.3">>}, py:eval(Context, "str(__import__('decimal').Decimal('0.1') * 3)")),
        ?assertEqual({ok, 3}, py:eval(Context, "__import__('sqlite3').connect(':memory:').execute('select 1 + 2').fetchone()[0]")),
        ?assertEqual({ok, true}, py:eval(Context, "__import__('ssl').create_default_context() is not None")),
        ?assertEqual({ok, 5}, py:eval(Context, "__import__('ctypes').pythonapi.PyLong_AsLong(__import__('ctypes').py_object(5))"))
    end).

executable(Config) ->
    reactor_test:allowing_subprocess(fun() -> executable_of_a_context(Config) end).

executable_of_a_context(Config) ->
    with_context(Config, fun(Context) ->
        {ok, Executable} = py:eval(Context, "__import__('sys').executable"),
        Code = "import sys; print('.'.join(map(str, sys.version_info[:3])), sys.prefix, end='')",
        Said = os:cmd(unicode:characters_to_list([Executable, " -c \"", Code, "\""])),
        {ok, Version} = py:eval(Context, "'.'.join(map(str, __import__('sys').version_info[:3]))"),
        {ok, Prefix} = py:eval(Context, "__import__('sys').prefix"),
        ?assertEqual(unicode:characters_to_list([Version, " ", Prefix]), Said),
        %% What starts processes of its own finds its interpreter.
        ?assertEqual({ok, <<"42">>}, py:call(Context, subprocess, check_output, [[Executable, <<"-c">>, <<"print(6 * 7, end='')">>]]))
    end).

version(Config) ->
    with_context(Config, fun(Context) ->
        #{python := Python, nif := Nif, kernel := Kernel, otp := Otp, py_reactor := Application} = py:version(),
        {ok, Running} = py:eval(Context, "'.'.join(map(str, __import__('sys').version_info[:3]))"),
        ?assertNotEqual(nomatch, string:prefix(Running, Python)),
        ?assertEqual(list_to_binary(erlang:system_info(otp_release)), Otp),
        [?assertNotEqual(<<>>, Text) || Text <- [Nif, Kernel, Application]]
    end).

%% The package comes before the user's directories, and those before everything else.
path(Config) ->
    [First, Second] = Directories = [
        unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), Name)) || Name <- ["first", "second 日本"]
    ],
    [ok = filelib:ensure_dir(filename:join(Directory, "x")) || Directory <- Directories],
    {ok, Context} = py_reactor_context:start_link(reactor_test:new_id(), worker, #{python_path => Directories}),
    {ok, Path} = py:eval(Context, "__import__('sys').path"),
    {_, After} = lists:splitwith(fun(Directory) -> Directory =/= First end, Path),
    ?assertMatch([First, Second | _], After),
    {ok, File} = py:eval(Context, "__import__('erlang.reactor').reactor.__file__"),
    ?assertNotEqual(nomatch, string:find(File, unicode:characters_to_binary(filename:basename(code:priv_dir(py_reactor))))),
    ok = py_reactor_context:stop(Context).

setup_code_of_a_context_is_its_own(_Config) ->
    Start = fun(Code) ->
        {ok, Context} = py_reactor_context:start_link(reactor_test:new_id(), worker, #{setup_code => Code}),
        Context
    end,
    [One, Two] = [Start(<<"name = 'one'\ndef say():\n    return name\n">>), Start(<<"name = 'two'\ndef say():\n    return name\n">>)],
    ?assertEqual({ok, <<"one">>}, py:call(One, '__main__', say, [])),
    ?assertEqual({ok, <<"two">>}, py:call(Two, '__main__', say, [])),
    [ok = py_reactor_context:stop(Context) || Context <- [One, Two]].

with_context(Config, Fun) ->
    reactor_test:with_context([{backend, auto} | Config], #{}, Fun).

%% Other VMs.

%% Starts one that evaluates Code, and says nothing of how long that takes, which is the machine's affair; answers its port and the number of its process. SIGINT has its default action there,
%% although what runs in the background of a shell inherits that it is ignored.
vm(Flags, Code, Options) ->
    Ebin = filename:dirname(code:which(py)),
    Erl = ["--default-signal=INT", os:find_executable("erl")],
    Port = open_port({spawn_executable, os:find_executable("env")}, [
        {args, Erl ++ Flags ++ ["-noshell", "-pa", filename:absname(Ebin), "-py_reactor", "slow_callback_ms", "infinity", "-eval", Code]},
        exit_status, binary, stderr_to_stdout, {line, 10000}
        | Options
    ]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    {Port, integer_to_list(OsPid)}.

%% The next line that begins so.
line(Port, Prefix) ->
    receive
        {Port, {data, {_, Line}}} ->
            case string:prefix(Line, Prefix) of
                nomatch -> line(Port, Prefix);
                Rest -> Rest
            end;
        {Port, {exit_status, Status}} ->
            error({ended, Status, Prefix})
    after 60000 -> error({silent, Prefix})
    end.

exit_status(Port) ->
    receive
        {Port, {exit_status, Status}} -> Status
    after 60000 -> error(still_running)
    end.

print_appears_in_a_pipe(_Config) ->
    {Port, _} = vm([], "ok = py:exec(\"print('printed by Python')\"), receive stop -> ok end", []),
    _ = line(Port, "printed by Python"),
    {os_pid, Pid} = erlang:port_info(Port, os_pid),
    _ = os:cmd("kill -KILL " ++ integer_to_list(Pid)),
    ?assertEqual(128 + 9, exit_status(Port)).

%% Whatever logger lets pass.
printed_on_the_console_once_and_logged(Config) ->
    File = filename:join(proplists:get_value(priv_dir, Config), "printed.log"),
    Code =
        "ok = logger:set_primary_config(level, debug),"
        "ok = logger:add_handler(file, logger_std_h, #{config => #{file => \"" ++ File ++ "\"}}),"
        "ok = py:exec(\"import logging\nprint('printed by Python')\nlogging.error('the end')\"),"
        "io:get_line([]), halt()",
    {Port, _} = vm([], Code, []),
    Lines = lines_until(Port, "the end"),
    ?assertMatch([_], [Line || Line <- Lines, string:find(Line, "printed by Python") =/= nomatch]),
    reactor_test:wait_until(fun() ->
        {ok, Logged} = file:read_file(File),
        string:find(Logged, "the end") =/= nomatch
    end),
    {ok, Logged} = file:read_file(File),
    ?assertMatch([_, _], string:split(Logged, "printed by Python", all)),
    true = port_command(Port, <<"go\n">>),
    ?assertEqual(0, exit_status(Port)).

lines_until(Port, Text) ->
    receive
        {Port, {data, {_, Line}}} ->
            case string:find(Line, Text) of
                nomatch -> [Line | lines_until(Port, Text)];
                _ -> [Line]
            end
    after 60000 -> error(silent)
    end.

%% Of several interpreters. Each line is made of several parts, between which the others have their turn.
lines_do_not_mix(_Config) ->
    Code =
        "Print = \"import sys, time\\nclass Slow:\\n    def __str__(self):\\n        time.sleep(0.001)\\n        return 'of'\\n"
        "for n in range(200): print('line', n, Slow(), who, 'ends', file=sys.stdout if n % 2 else sys.stderr)\","
        "Go = fun(Id) -> {ok, _} = py_reactor:start_context(Id, subinterp, #{}),"
        "    spawn_monitor(fun() -> ok = py:exec(Id, io_lib:format(\"who = ~b~n\", [Id])), ok = py:exec(Id, Print) end) end,"
        "Monitors = [Go(Id) || Id <- [1, 2, 3]],"
        "[receive {'DOWN', M, _, _, normal} -> ok end || {_, M} <- Monitors],"
        "io:format(\"~nfinished~n\"), receive stop -> ok end",
    {Port, Pid} = vm([], Code, []),
    Lines = lines(Port),
    _ = os:cmd("kill -KILL " ++ Pid),
    Whole = [Line || Line <- Lines, re:run(Line, "^line \\d+ of [123] ends$") =/= nomatch],
    ?assertEqual([], Lines -- Whole),
    ?assertEqual(3 * 200, length(Whole)).

lines(Port) ->
    receive
        {Port, {data, {eol, <<"finished">>}}} -> [];
        {Port, {data, {eol, <<>>}}} -> lines(Port);
        {Port, {data, {_, Line}}} -> [Line | lines(Port)];
        {Port, {exit_status, Status}} -> error({ended, Status})
    after 60000 -> error(silent)
    end.

%% A terminal that the VM reads from is non-blocking for all; one that is full must not cost output, nor raise.
a_slow_console_loses_nothing(_Config) ->
    Ebin = filename:absname(filename:dirname(code:which(py))),
    Code = "ok = py:exec(\\\"import os\\\\nos.set_blocking(1, False)\\\\nfor n in range(20000): print(n, '.' * 90)\\\"), halt(0)",
    Said = os:cmd(io_lib:format("erl -noshell -pa ~ts -py_reactor slow_callback_ms infinity -eval \"~ts\" 2>&1 | (sleep 1; wc -l)", [Ebin, Code])),
    ?assertEqual("20000", string:trim(Said)).

%% With +Bd an interrupt ends the VM; importing signal must not take that away.
sigint_is_left_to_the_vm(_Config) ->
    {Port, Pid} = vm(["+Bd"], "ok = py:exec(\"import signal, asyncio\"), io:format(\"ready~n\"), receive stop -> ok end", []),
    _ = line(Port, "ready"),
    _ = os:cmd("kill -INT " ++ Pid),
    try
        ?assertEqual(128 + 2, exit_status(Port))
    after
        os:cmd("kill -KILL " ++ Pid)
    end.

server() ->
    "ok = py:exec(\"import erlang.reactor as r\\n"
    "class P(r.Protocol):\\n"
    "    def data_received(self, data):\\n"
    "        self.write(data)\\n"
    "        return 'continue'\\n"
    "    def connection_lost(self):\\n"
    "        print('lost')\\n"
    "r.set_protocol_factory(P)\"),"
    "{ok, _} = py_reactor:start_listener(l, #{}),"
    "#{l := #{port := N}} = py_reactor:listeners(),"
    "io:format(\"port ~b~n\", [N]),".

connected(Port) ->
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, binary_to_integer(line(Port, "port ")), [binary, {active, false}]),
    ok = gen_tcp:send(Client, <<"x">>),
    reactor_test:expect(Client, <<"x">>),
    Client.

sigterm_closes_connections_properly(_Config) ->
    {Port, Pid} = vm([], server() ++ "receive stop -> ok end", []),
    Client = connected(Port),
    _ = os:cmd("kill -TERM " ++ Pid),
    _ = line(Port, "lost"),
    reactor_test:expect_eof(Client),
    ?assertEqual(0, exit_status(Port)).

%% No crash and no hang, whatever runs.
halt_with_connections_open(_Config) ->
    [
        begin
            {Port, _} = vm([], server() ++ "\"go\\n\" = io:get_line([]), " ++ End, []),
            Client = connected(Port),
            true = port_command(Port, <<"go\n">>),
            ?assertEqual(0, exit_status(Port)),
            ?assertMatch({error, _}, gen_tcp:recv(Client, 0, 30000))
        end
     || End <- ["halt()", "init:stop()", "halt(0, [{flush, false}])"]
    ].

works_from_any_directory(_Config) ->
    {Port, _} = vm([], "io:format(\"answer ~p~n\", [py:eval(\"6 * 7\")]), halt()", [{cd, "/"}, {env, [{"LD_LIBRARY_PATH", false}, {"PYTHONPATH", false}]}]),
    ?assertEqual(<<"{ok,42}">>, line(Port, "answer ")),
    ?assertEqual(0, exit_status(Port)).
