%% Programs for asyncio as they are on PyPI, in a context: they serve their own clients there, and end gracefully with it.
%%
%% `make test-apps' prepares what they need; without that, this suite is skipped. Each of test/apps/*.py is one of them.
-module(apps_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(COLLECTS_LOGS, true).
-define(OWN_ALL, true).
-include("reactor_suite.hrl").

%% What its clients, in another process, see of its end; what the application says then.
-define(SERVERS, #{
    uvicorn_fastapi => [<<"FastAPI's lifespan has ended">>],
    uvicorn_asgi => [<<"the application's lifespan has ended">>],
    hypercorn_asgi => [<<"the application's lifespan has ended">>],
    aiohttp_server => [<<"aiohttp has cleaned up">>],
    websockets_server => [],
    grpclib_server => [],
    aiosmtpd_server => []
}).
-define(CLIENTS, [asyncpg_client, redis_client]).
-define(DRAIN_MS, 10000).

%% asyncio's streams ask a task that was cancelled for its exception.
-define(FAULT_OF_3_11, "Exception in callback StreamReaderProtocol.connection_made").

all() ->
    case os:getenv("APPS_VENV") of
        false -> [only_by_make_test_apps];
        _ -> [{group, Group} || Group <- [owngil | reactor_test:backends()]]
    end.

groups() ->
    [{Group, [], names() ++ [all_in_one_context, sample_of_the_docs]} || Group <- [owngil | reactor_test:backends()]].

only_by_make_test_apps(_Config) ->
    {skip, "make test-apps"}.

names() ->
    maps:keys(?SERVERS) ++ ?CLIENTS.

uvicorn_fastapi(Config) -> alone(uvicorn_fastapi, Config).
uvicorn_asgi(Config) -> alone(uvicorn_asgi, Config).
hypercorn_asgi(Config) -> alone(hypercorn_asgi, Config).
aiohttp_server(Config) -> alone(aiohttp_server, Config).
websockets_server(Config) -> alone(websockets_server, Config).
grpclib_server(Config) -> alone(grpclib_server, Config).
aiosmtpd_server(Config) -> alone(aiosmtpd_server, Config).
asyncpg_client(Config) -> alone(asyncpg_client, Config).
redis_client(Config) -> alone(redis_client, Config).

alone(Name, Config) ->
    case run([Name], Config) of
        [] -> ok;
        [{Name, Why}] -> {skip, Why}
    end.

all_in_one_context(Config) ->
    case run(names(), Config) of
        [] -> ok;
        Refused -> {comment, io_lib:format("but for ~0p", [[Name || {Name, _} <- Refused]])}
    end.

%% On any free port.
sample_of_the_docs(Config) ->
    {ok, Text} = file:read_file(filename:join(os:getenv("APPS_DOCS"), "asyncio.md")),
    {match, [[Sample]]} = re:run(Text, "^```python apps\n(.*?)^```$", [global, multiline, dotall, {capture, [1], binary}]),
    SetUp = binary:replace(Sample, <<"port=8000">>, <<"port=0, log_level='warning'">>),
    case py_reactor_context:start_link(reactor_test:new_id(), reactor_test:mode(Config), (options(Config))#{setup_code => SetUp}) of
        {ok, Context} ->
            ok = reactor_test:wait_until(fun() -> py:eval(Context, "server.started") =:= {ok, true} end),
            {ok, Port} = py:eval(Context, "server.servers[0].sockets[0].getsockname()[1]"),
            {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
            ok = gen_tcp:send(Client, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"),
            ok = reactor_test:wait_until(fun() ->
                {ok, Answer} = gen_tcp:recv(Client, 0, 30000),
                string:find(Answer, "{\"hello\":\"you\"}") =/= nomatch
            end),
            ok = py_reactor_context:stop(Context, ?DRAIN_MS),
            ?assertEqual({error, closed}, gen_tcp:recv(Client, 0, 30000)),
            ?assertEqual([], log_collector:flush());
        {error, {setup_code, {python_error, #{type := <<"ImportError">>, message := Why}}}} ->
            ?assertNotEqual(worker, reactor_test:mode(Config)),
            {skip, Why}
    end.

%% Those that an interpreter of the context's own cannot import, with why.
run(Names, Config) ->
    true = register(apps, self()),
    Directory = filename:join(filename:dirname(code:which(?MODULE)), "apps"),
    Before = os_resources:snapshot(),
    {ok, Context} = py_reactor_context:start_link(
        reactor_test:new_id(),
        reactor_test:mode(Config),
        (options(Config))#{python_path => [Directory]}
    ),
    Refused = [{Name, Why} || Name <- Names, {refused, Why} <- [imported(Context, Name, reactor_test:mode(Config))]],
    Apps = [{Name, served(py:call(Context, Name, serve, []))} || Name <- Names, not lists:keymember(Name, 1, Refused)],
    Checked = at_the_same_time(fun({Name, Port}) -> {Name, py:call(Context, Name, check, [Port])} end, Apps),
    [?assertEqual({Name, {ok, none}}, One) || {Name, _} = One <- Checked],
    Clients = [{Name, outside(Directory, Name, Port)} || {Name, Port} <- Apps, maps:is_key(Name, ?SERVERS)],
    [?assertEqual({Name, <<"ready">>}, {Name, said(Client)}) || {Name, Client} <- Clients],
    ok = py_reactor_context:stop(Context, ?DRAIN_MS),
    [?assertEqual({Name, <<"clean">>}, {Name, said(Client)}) || {Name, Client} <- Clients],
    [?assertEqual({Name, Text}, {Name, heard(Text)}) || {Name, _} <- Apps, Text <- maps:get(Name, ?SERVERS, [])],
    true = unregister(apps),
    %% No task has been left behind, no callback has raised.
    ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, ?FAULT_OF_3_11) =:= nomatch]),
    ok = os_resources:wait_back_to(Before),
    Refused.

%% How long a callback takes is the machine's affair.
options(Config) ->
    #{backend => ?config(backend, Config), venv => os:getenv("APPS_VENV"), slow_callback_ms => infinity}.

served({ok, Port}) ->
    Port.

imported(Context, Name, Mode) ->
    case py:exec(Context, ["import ", atom_to_list(Name)]) of
        ok -> ok;
        {error, {python_error, #{type := <<"ImportError">>, message := Why}}} when Mode =/= worker -> {refused, Why}
    end.

at_the_same_time(Fun, Items) ->
    Parent = self(),
    Pids = [spawn_link(fun() -> Parent ! {self(), Fun(Item)} end) || Item <- Items],
    [
        receive
            {Pid, Result} -> Result
        after 60000 -> error({no_answer, Item})
        end
     || {Pid, Item} <- lists:zip(Pids, Items)
    ].

%% A client in a process of its own, over asyncio's loop.
outside(Directory, Name, Port) ->
    Python = filename:join([os:getenv("APPS_VENV"), "bin", "python"]),
    open_port({spawn_executable, Python}, [
        {args, [filename:join(Directory, "outside.py"), atom_to_list(Name), integer_to_list(Port)]},
        {env, [{"PYTHONPATH", filename:join(code:priv_dir(py_reactor), "python")}]},
        {line, 10000},
        binary,
        exit_status
    ]).

said(Client) ->
    receive
        {Client, {data, {eol, Line}}} -> Line;
        {Client, {exit_status, Status}} -> {exit_status, Status}
    after 60000 -> timeout
    end.

heard(Text) ->
    receive
        Text -> Text
    after 10000 -> timeout
    end.
