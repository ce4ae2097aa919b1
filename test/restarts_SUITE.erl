%% Contexts of the application that fail come back, however often, and are nobody else's affair (B5).
-module(restarts_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, send/2, expect/2, expect_eof/1, new_id/0, options/2, wait_until/1]).

all() ->
    [
        who_cannot_start_again_harms_nobody,
        who_cannot_start_again_can_be_stopped,
        who_is_killed_while_it_is_stopped_stays_away,
        who_is_stopped_after_it_was_killed_stays_away,
        a_killed_keeper,
        killed_supervisors
    ].

init_per_testcase(Case, Config) ->
    _ = application:stop(py_reactor),
    {ok, _} = application:ensure_all_started(py_reactor),
    ok = log_collector:install(),
    [{backend, auto}, {obstacle, filename:join(?config(priv_dir, Config), Case)} | Config].

end_per_testcase(_Case, Config) ->
    log_collector:remove(),
    _ = file:delete(?config(obstacle, Config)),
    ok = application:stop(py_reactor).

%% One whose set-up code fails while the obstacle is there.
start(Config) ->
    Id = new_id(),
    SetUp = [
        "import os\n",
        "if os.path.exists('", ?config(obstacle, Config), "'): raise OSError('an obstacle')\n",
        reactor_test:factory("streams.Echo")
    ],
    {ok, Context} = py_reactor:start_context(Id, worker, options(Config, #{setup_code => SetUp})),
    {Id, Context}.

echoes(Client) ->
    send(Client, <<"x">>),
    expect(Client, <<"x">>).

failures(_Id, 0) ->
    ok;
failures(Id, Count) ->
    {error, _, _} = log_collector:await(Id, ["could not be started again", "an obstacle", "the next attempt is in"]),
    failures(Id, Count - 1).

serves(Id, Config) ->
    {Client, _} = client(Id, Config),
    echoes(Client),
    gen_tcp:close(Client).

is_back(Id, Old) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} when Pid =/= Old -> is_ready(Pid);
        _ -> false
    end.

is_ready(Pid) ->
    case py_reactor_table:ctx(Pid) of
        {ok, _} -> true;
        _ -> false
    end.

%% More attempts than any supervisor of ours takes in a row.
who_cannot_start_again_harms_nobody(Config) ->
    {Id, Context} = start(Config),
    {_, Other} = start(Config),
    {Client, _} = client(Other, Config),
    echoes(Client),
    ok = file:write_file(?config(obstacle, Config), ""),
    exit(Context, kill),
    failures(Id, 5),
    ?assertEqual({error, {restarting, Id}}, py_reactor:start_context(Id, worker, #{})),
    ?assertEqual({error, {restarting, Id}}, py_context_sup:ensure(Id)),
    echoes(Client),
    ok = file:delete(?config(obstacle, Config)),
    wait_until(fun() -> is_back(Id, Context) end),
    serves(Id, Config),
    echoes(Client).

who_cannot_start_again_can_be_stopped(Config) ->
    {Id, Context} = start(Config),
    ok = file:write_file(?config(obstacle, Config), ""),
    exit(Context, kill),
    failures(Id, 1),
    ok = py_reactor_context:stop(Id),
    ?assertEqual({error, {no_context, Id}}, py_reactor_context:stop(Id)),
    ?assertEqual([], supervisor:which_children(py_context_sup)),
    {ok, _} = py_reactor:start_context(Id, worker, options(Config, #{setup_code => reactor_test:factory("streams.Echo")})),
    serves(Id, Config).

who_is_killed_while_it_is_stopped_stays_away(Config) ->
    {Id, Context} = start(Config),
    Self = self(),
    _ = spawn(fun() -> py:exec(Context, <<"import time; time.sleep(0.3)">>) end),
    _ = spawn(fun() -> Self ! {stopped, py_reactor_context:stop(Id)} end),
    exit(Context, kill),
    receive
        {stopped, Answer} -> ?assertEqual(ok, Answer)
    end,
    wait_until(fun() -> supervisor:which_children(py_context_sup) =:= [] end).

who_is_stopped_after_it_was_killed_stays_away(Config) ->
    [
        begin
            {Id, Context} = start(Config),
            exit(Context, kill),
            timer:sleep(Pause),
            ok = py_reactor_context:stop(Id),
            wait_until(fun() -> supervisor:which_children(py_context_sup) =:= [] end)
        end
     || Pause <- [0, 1, 5, 20, 60]
    ].

a_killed_keeper(Config) ->
    {Id, Context} = start(Config),
    {Client, _} = client(Context, Config),
    echoes(Client),
    [{Id, Keeper, _, _}] = supervisor:which_children(py_context_sup),
    exit(Keeper, kill),
    expect_eof(Client),
    wait_until(fun() -> is_back(Id, Context) end),
    serves(Id, Config).

%% The contexts come back as they were, and the listener on its port.
killed_supervisors(Config) ->
    {Id, _} = start(Config),
    {ok, _} = py_reactor:start_listener(?MODULE, #{contexts => [Id]}),
    #{?MODULE := #{port := Port}} = py_reactor:listeners(),
    [
        begin
            Client = connect(Port),
            echoes(Client),
            Killed = whereis(Supervisor),
            exit(Killed, kill),
            wait_until(fun() -> not lists:member(whereis(Supervisor), [undefined, Killed]) end),
            %% A listener that ends with its supervisor may be there for a moment yet, and lose who comes to it.
            wait_until(fun() -> is_served(Port) end),
            gen_tcp:close(Client)
        end
     || Supervisor <- [py_listener_sup, py_context_sup, py_service_sup]
    ].

is_served(Port) ->
    Client = connect(Port),
    _ = gen_tcp:send(Client, <<"x">>),
    Answer = gen_tcp:recv(Client, 1, 30000),
    gen_tcp:close(Client),
    Answer =:= {ok, <<"x">>}.

connect(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, Client} -> Client;
        {error, econnrefused} -> connect(Port)
    end.
