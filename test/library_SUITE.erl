%% The native library is loaded more than once: beside itself, after it was purged, and when the whole system restarts.
-module(library_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, send/2, expect/2, expect_eof/1, new_id/0, options/2, wait_until/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        connections_live_on_when_the_module_is_loaded_again,
        contexts_and_listeners_come_back_after_a_purge,
        a_listener_comes_back_before_its_context_has_heard_of_a_purge,
        another_build_is_refused
    ], [
        python_calls_while_nothing_is_loaded
    ], [
        init_restart
    ]).

init_per_testcase(_Case, Config) ->
    _ = application:stop(py_reactor),
    {ok, _} = application:ensure_all_started(py_reactor),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = application:stop(py_reactor).

start(Config) ->
    Id = new_id(),
    SetUp = [reactor_test:factory("streams.Echo"), "import erlang, threading\n"],
    {ok, Context} = py_reactor:start_context(Id, reactor_test:mode(Config), options(Config, #{setup_code => SetUp})),
    {Id, Context}.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

load_again() ->
    false = code:purge(py_nif),
    {module, py_nif} = code:load_file(py_nif).

%% Nothing is left of the module and, to the VM, of the library.
unload() ->
    _ = code:purge(py_nif),
    true = code:delete(py_nif),
    _ = code:purge(py_nif),
    ok.

%% As a release handler does, many times: whoever is served notices nothing.
connections_live_on_when_the_module_is_loaded_again(Config) ->
    {Id, Context} = start(Config),
    {Client, _} = client(Id, Config),
    {ok, _} = py_reactor:start_listener(?FUNCTION_NAME, #{contexts => [Id]}),
    Before = py_reactor:listeners(),
    [
        begin
            {module, py_nif} = load_again(),
            echoes(Client),
            {Other, _} = client(Id, Config),
            echoes(Other),
            gen_tcp:close(Other),
            ?assertEqual({ok, N}, py:eval(Id, [integer_to_list(N)])),
            true = code:soft_purge(py_nif)
        end
     || N <- lists:seq(1, 5)
    ],
    #{?FUNCTION_NAME := #{port := Port}} = Before,
    {ok, Accepted} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    echoes(Accepted),
    ?assertEqual({ok, Context}, py_reactor_table:pid(Id)),
    ok = py_reactor:stop_listener(?FUNCTION_NAME),
    ok = py_reactor_context:stop(Id, 0),
    expect_eof(Client).

contexts_and_listeners_come_back_after_a_purge(Config) ->
    {Id, Context} = start(Config),
    {ok, _} = py_reactor:start_listener(?FUNCTION_NAME, #{contexts => [Id]}),
    #{?FUNCTION_NAME := #{port := Port}} = py_reactor:listeners(),
    _ = purge_and_load(Config, Id, Context, Port),
    Before = os_resources:snapshot(),
    lists:foldl(fun(_, Pid) -> purge_and_load(Config, Id, Pid, Port) end, element(2, py_reactor_table:pid(Id)), [1, 2, 3]),
    os_resources:wait_back_to(Before),
    ok = py_reactor:stop_listener(?FUNCTION_NAME),
    ok = py_reactor_context:stop(Id, 0).

purge_and_load(Config, Id, Context, Port) ->
    {Client, _} = client(Id, Config),
    echoes(Client),
    Monitor = monitor(process, Context),
    ok = unload(),
    {module, py_nif} = code:ensure_loaded(py_nif),
    receive
        {'DOWN', Monitor, process, Context, Reason} -> ?assertEqual(native_library_reloaded, Reason)
    end,
    expect_eof(Client),
    gen_tcp:close(Client),
    wait_until(back, fun() -> serves(Port) end),
    {ok, New} = py_reactor_table:pid(Id),
    ?assertNotEqual(Context, New),
    New.

%% It finds a context that is of the library that was purged, and waits for the next one.
a_listener_comes_back_before_its_context_has_heard_of_a_purge(Config) ->
    {Id, Context} = start(Config),
    {ok, Listener} = py_reactor:start_listener(?FUNCTION_NAME, #{contexts => [Id]}),
    #{?FUNCTION_NAME := #{port := Port}} = py_reactor:listeners(),
    Supervisor = whereis(py_listener_sup),
    Monitor = monitor(process, Listener),
    ok = sys:suspend(Context),
    ok = unload(),
    {module, py_nif} = code:ensure_loaded(py_nif),
    receive
        {'DOWN', Monitor, process, Listener, Reason} -> ?assertEqual(native_library_reloaded, Reason)
    end,
    wait_until(back, fun() -> is_map_key(?FUNCTION_NAME, py_reactor:listeners()) end),
    [{_, Next, _, _}] = supervisor:which_children(py_listener_sup),
    ok = sys:resume(Context),
    wait_until(back, fun() -> serves(Port) end),
    ?assertEqual(Supervisor, whereis(py_listener_sup)),
    ?assertMatch([{_, Next, _, _}], supervisor:which_children(py_listener_sup)),
    ok = py_reactor:stop_listener(?FUNCTION_NAME),
    ok = py_reactor_context:stop(Id, 0).

serves(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, Client} ->
            _ = gen_tcp:send(Client, <<"x">>),
            Answer = gen_tcp:recv(Client, 1, 5000),
            gen_tcp:close(Client),
            Answer =:= {ok, <<"x">>};
        {error, _} ->
            false
    end.

%% Threads of Python know nothing of what the VM loads.
python_calls_while_nothing_is_loaded(Config) ->
    {Id, _Context} = start(Config),
    Calls =
        "import sys\n"
        "answers, sys.stop = [], threading.Event()\n"
        "def ask():\n"
        "    while not sys.stop.is_set():\n"
        "        try: answers.append(erlang.call('library_suite', timeout=0.5))\n"
        "        except Exception as error: answers.append(type(error).__name__)\n"
        "        del answers[:-100]\n"
        "thread = threading.Thread(target=ask)\n"
        "thread.start()\n",
    ok = py:register_function(library_suite, fun() -> 42 end),
    ok = py:exec(Id, Calls),
    wait_until(answered, fun() -> py:eval(Id, "42 in answers") =:= {ok, true} end),
    _ = [
        begin
            ok = unload(),
            ok = timer:sleep(20),
            {module, py_nif} = code:ensure_loaded(py_nif)
        end
     || _ <- lists:seq(1, 5)
    ],
    %% It is still there, and asks the functions of now.
    wait_until(back, fun() -> py:exec(Id, "import sys; sys.stop.set()") =:= ok end),
    ok = py_reactor_context:stop(Id, 0).

%% In a VM of its own. Releases of Elixir do so to configure themselves.
init_restart(Config) ->
    Said = run(Config, code:lib_dir(py_reactor), "restarted"),
    ?assertEqual(["round 0: ok", "round 1: ok", "round 2: ok", "round 3: ok"], Said).

%% What a new build of the library brings along would be a second Python in the same process.
another_build_is_refused(Config) ->
    From = code:lib_dir(py_reactor),
    Directory = filename:join([?config(priv_dir, Config), "py_reactor-" ++ integer_to_list(new_id())]),
    [] = os:cmd(io_lib:format("mkdir -p '~ts' && cp -RL '~ts/ebin' '~ts/priv' '~ts'", [Directory, From, From, Directory])),
    try
        ?assertEqual(["refused", "lives on", "fresh: restart the VM"], run(Config, Directory, "rebuilt"))
    after
        os:cmd(io_lib:format("rm -rf '~ts' '~ts.2'", [Directory, Directory]))
    end.

%% What that function here says in a VM of its own, in which every restart calls it again.
run(Config, Library, Function) ->
    Settings = #{
        "FUNCTION" => Function,
        "BACKEND" => atom_to_list(proplists:get_value(backend, Config)),
        "MODE" => atom_to_list(reactor_test:mode(Config)),
        "ROUNDS" => filename:join(?config(priv_dir, Config), integer_to_list(new_id()))
    },
    Port = open_port({spawn_executable, os:find_executable("erl")}, [
        {args, [
            "-noshell", "-kernel", "logger_level", "emergency", "-s", atom_to_list(?MODULE), "main",
            "-pa", filename:join(Library, "ebin"), filename:dirname(code:which(?MODULE))
        ]},
        {env, maps:to_list(Settings)},
        {line, 1000}, exit_status, stderr_to_stdout
    ]),
    said(Port, []).

said(Port, Lines) ->
    receive
        {Port, {data, {_, Line}}} -> ct:log("~ts", [Line]), said(Port, [Line | Lines]);
        {Port, {exit_status, 0}} -> lists:reverse(Lines)
    after 120000 -> error({no_answer, Lines})
    end.

main() ->
    Config = [{backend, list_to_atom(os:getenv("BACKEND"))}, {mode, list_to_atom(os:getenv("MODE"))}],
    try
        {ok, _} = application:ensure_all_started(py_reactor),
        ?MODULE:(list_to_atom(os:getenv("FUNCTION")))(Config)
    catch
        Class:Reason:Stack -> say("~p ~p ~p", [Class, Reason, Stack]), halt(0)
    end.

say(Format, Values) ->
    io:format(Format ++ "~n", Values).

restarted(Config) ->
    File = os:getenv("ROUNDS"),
    Round =
        case file:read_file(File) of
            {ok, Count} -> binary_to_integer(Count);
            {error, enoent} -> 0
        end,
    ok = file:write_file(File, integer_to_list(Round + 1)),
    {Id, _} = start(Config),
    %% A port of its own would be free in any case.
    %% Somebody else may have it for a moment, as the port that a connection goes out from.
    reactor_test:wait_until(fun() ->
        case py_reactor:start_listener(restarted, #{contexts => [Id], port => port(Round)}) of
            {ok, _} -> true;
            {error, {listen, eaddrinuse, _}} -> false
        end
    end),
    #{restarted := #{port := Port}} = py_reactor:listeners(),
    ok = file:write_file(os:getenv("ROUNDS") ++ ".port", integer_to_list(Port)),
    wait_until(serves, fun() -> serves(Port) end),
    {Client, _} = client(Id, Config),
    echoes(Client),
    say("round ~b: ok", [Round]),
    case Round of
        3 -> halt(0);
        _ -> init:restart()
    end.

port(0) ->
    0;
port(_Round) ->
    {ok, Port} = file:read_file(os:getenv("ROUNDS") ++ ".port"),
    binary_to_integer(Port).

rebuilt(Config) ->
    {Id, _} = start(Config),
    {Client, _} = client(Id, Config),
    %% A release has each version in a directory of its own.
    Old = code:lib_dir(py_reactor),
    [] = os:cmd(io_lib:format("cp -R '~ts' '~ts.2'", [Old, Old])),
    true = code:replace_path(py_reactor, Old ++ ".2/ebin"),
    {error, on_load_failure} = code:load_file(py_nif),
    say("refused", []),
    echoes(Client),
    {ok, 1} = py:eval(Id, "1"),
    say("lives on", []),
    ok = unload(),
    {module, py_nif} = code:ensure_loaded(py_nif),
    {error, {python_start, Why}} = py_reactor_context:start_link(new_id(), reactor_test:mode(Config), options(Config, #{})),
    {_, _} = binary:match(Why, <<"restart the VM">>),
    say("fresh: restart the VM", []),
    halt(0).
