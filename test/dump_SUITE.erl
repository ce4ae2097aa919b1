%% py_reactor:dump: what is known of a context, whatever that does.
-module(dump_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [client/2, client/3, send/2, expect/2, with_context/3, serving/3, wait_until/1]).

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].

groups() ->
    reactor_test:backend_groups([
        connections_and_operations,
        an_endless_callback,
        other_threads,
        more_threads_than_are_told_of,
        tasks_and_where_they_wait,
        python_keeps_its_lock,
        the_collector_lets_others_run,
        nothing_that_is_secret,
        of_a_function_that_it_calls,
        no_context
    ]).

init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

%% What a context is, where whoever waited for Python's lock, or for the thread, was not kept from it for too long.
dump(Context, IsThere) ->
    Test = self(),
    wait_until(fun() ->
        Dump = py_reactor:dump(Context),
        IsThere(Dump) andalso is_tuple(Test ! {dump, Dump})
    end),
    receive
        {dump, Dump} -> Dump
    end.

whole(#{mode := Mode, stacks := [_ | _], tasks := Tasks, connections := Connections}) ->
    is_atom(Mode) andalso is_list(Tasks) andalso is_list(Connections);
whole(#{}) ->
    false.

while_it_runs(#{mode := Mode, stacks := Stacks}) ->
    is_atom(Mode) andalso is_list(Stacks).

connections_and_operations(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        #{mode := Mode, runs := _, queued := 0, options := #{buffers := 1024}, versions := #{kernel := _, python := _, otp := _}} =
            Dump = dump(Context, fun whole/1),
        ?assertEqual(reactor_test:mode(Config), Mode),
        #{connections := [#{state := read, operations := Operations, machine := Machine, received := 1, sent := 1}]} = Dump,
        ?assert(lists:member(<<"receive">>, Operations)),
        ?assertNotEqual(nomatch, string:find(Machine, "Open")),
        #{stats := #{connections := 1, backend := _}, stacks := [#{thread := <<"the context's thread">>} | _]} = Dump,
        ?assert(io_lib:printable_unicode_list(lists:flatten(io_lib:format("~tp", [Dump]))))
    end).

an_endless_callback(Config) ->
    serving(Config, "endless.Endless", fun(Context) ->
        Flag = unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())),
        {Client, _} = client(Context, Config, #{endless => <<"data_received">>, flag => Flag}),
        send(Client, <<"x">>),
        wait_until(fun() -> filelib:is_file(Flag) end),
        #{runs := true, connections := {unknown, _}, stats := #{connections := 1}, stacks := Stacks} = dump(Context, fun while_it_runs/1),
        [#{thread := <<"the context's thread">>, stack := Stack} | _] = Stacks,
        ?assertNotEqual([], [Line || Line <- Stack, string:find(Line, "_spin") =/= nomatch]),
        ok = py_reactor_context:interrupt(Context)
    end).

other_threads(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import threading\ngo = threading.Event()\nthreading.Thread(target=go.wait, name='waits for go').start()"),
        #{stacks := Stacks} = dump(Context, fun whole/1),
        ?assertMatch([_], [Stack || #{thread := Thread, stack := Stack} <- Stacks, string:find(Thread, "waits for go") =/= nomatch]),
        ok = py:exec(Context, "go.set()")
    end).

%% The context's own is the oldest of them, and is told of first.
more_threads_than_are_told_of(Config) ->
    serving(Config, "endless.Endless", fun(Context) ->
        Flag = unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())),
        ok = py:exec(Context, "import threading\ngo = threading.Event()\nfor _ in range(70): threading.Thread(target=go.wait).start()"),
        {Client, _} = client(Context, Config, #{endless => <<"data_received">>, flag => Flag}),
        send(Client, <<"x">>),
        wait_until(fun() -> filelib:is_file(Flag) end),
        #{stacks := [#{thread := <<"the context's thread">>, stack := Stack} | Others]} = dump(Context, fun while_it_runs/1),
        ?assertNotEqual([], [Line || Line <- Stack, string:find(Line, "_spin") =/= nomatch]),
        ?assertEqual(63, length(Others)),
        ok = py_reactor_context:interrupt(Context),
        ok = py:exec(Context, "go.set()")
    end).

tasks_and_where_they_wait(Config) ->
    with_context(Config, #{}, fun(Context) ->
        _ = dump(Context, fun whole/1),
        ok = py:exec(Context, [
            "import asyncio, erlang.reactor\n"
            "async def inner():\n    await asyncio.sleep(3600)\n"
            "async def outer():\n    await inner()\n"
            "kept = erlang.reactor.spawn(outer(), name='waits for an hour')\n"
        ]),
        Tasks = fun() -> maps:get(tasks, dump(Context, fun whole/1)) end,
        Find = fun() -> [Stack || #{task := <<"waits for an hour, outer">>, stack := Stack} <- Tasks()] end,
        Has = fun(Stack, Name) -> [Line || Line <- Stack, string:find(Line, Name) =/= nomatch] =/= [] end,
        wait_until(fun() ->
            case Find() of
                [Stack] -> lists:all(fun(Name) -> Has(Stack, Name) end, ["in outer", "in inner", "in sleep"]);
                [] -> false
            end
        end),
        ok = py:exec(Context, "more = [erlang.reactor.spawn(outer()) for _ in range(300)]"),
        Many = Tasks(),
        ?assertEqual(257, length(Many)),
        ?assertMatch(#{task := <<"[... 45 tasks left out ...]">>}, lists:last(Many)),
        ok = py:exec(Context, "for task in [kept, *more]:\n    task.cancel()"),
        wait_until(fun() -> Tasks() =:= [] end)
    end).

%% While it is found out where threads are, for a dump or an interrupt, others cannot begin or end, and nobody may wait for them. In
%% another VM, which would stand still for ever.
the_collector_lets_others_run(Config) ->
    %% The other VM counts from the beginning.
    Directory = filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag()),
    ok = file:make_dir(Directory),
    Evaluated = io_lib:format("dump_SUITE:dump_while_it_collects(~p, ~p, ~p)", [
        Directory, proplists:get_value(backend, Config), reactor_test:mode(Config)
    ]),
    {Port, OsPid} = interpreter_SUITE:vm(["-pa", filename:dirname(code:which(?MODULE))], lists:flatten(Evaluated), []),
    try
        ?assertEqual(<<"100">>, interpreter_SUITE:line(Port, "dumps: ")),
        ?assertEqual(<<"20">>, interpreter_SUITE:line(Port, "interrupts: ")),
        ?assertEqual(0, interpreter_SUITE:exit_status(Port))
    after
        os:cmd("kill -KILL " ++ OsPid)
    end.

dump_while_it_collects(Directory, Backend, Mode) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Config = [{priv_dir, Directory}, {backend, Backend}, {mode, Mode}],
    with_context(Config, #{setup_code => "import erlang._dump, traceback, collecting"}, fun(Context) ->
        {ok, none} = py:call(Context, collecting, start, []),
        Dumps = [dump(Context, fun while_it_runs/1) || _ <- lists:seq(1, 100)],
        io:format("~ndumps: ~b~n", [length(Dumps)]),
        Told = [
            begin
                Flag = unicode:characters_to_binary(filename:join(Directory, reactor_test:tag())),
                Spun = spawn_monitor(fun() -> exit(py:call(Context, collecting, spun_by_asyncio, [Flag])) end),
                wait_until(fun() -> filelib:is_file(Flag) end),
                {Pid, Monitor} = Spun,
                %% One that comes while the collector calls is the collector's, which drops it.
                wait_until(fun() ->
                    _ = py_reactor_context:interrupt(Context),
                    not is_process_alive(Pid)
                end),
                receive {'DOWN', Monitor, process, Pid, _Answer} -> told end
            end
         || _ <- lists:seq(1, 20)
        ],
        io:format("~ninterrupts: ~b~n", [length(Told)]),
        {ok, none} = py:call(Context, collecting, stop, [])
    end),
    halt(0).

%% Code of an extension module that lets nobody else run: the stacks are not to be had, and the rest is.
python_keeps_its_lock(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "import collections, itertools"),
        Flag = unicode:characters_to_binary(filename:join(proplists:get_value(priv_dir, Config), reactor_test:tag())),
        Code = ["open('", Flag, "', 'x').close()\ncollections.deque(itertools.repeat(0, 300000000), maxlen=0)"],
        Asked = spawn_monitor(fun() -> exit({answer, py:exec(Context, Code)}) end),
        wait_until(fun() -> filelib:is_file(Flag) end),
        ?assertMatch(#{stacks := _, connections := _, stats := _, options := #{}}, py_reactor:dump(Context)),
        {Pid, Monitor} = Asked,
        receive {'DOWN', Monitor, process, Pid, {answer, ok}} -> ok end,
        %% Who looked in vain may still be looking.
        wait_until(fun() ->
            case py_reactor:dump(Context) of
                #{stacks := [_ | _], connections := []} -> true;
                #{} -> false
            end
        end)
    end).

nothing_that_is_secret(Config) ->
    SetUp = reactor_test:factory("streams.Echo") ++ "\npassword = 'hidden'",
    with_context(Config, #{setup_code => SetUp, env => #{"PY_REACTOR_TEST_SECRET" => "hidden"}}, fun(Context) ->
        _ = client(Context, Config, #{password => <<"hidden">>}),
        Text = io_lib:format("~tp", [dump(Context, fun whole/1)]),
        ?assertEqual(nomatch, string:find(Text, "hidden")),
        ?assertNotEqual(nomatch, string:find(Text, "PY_REACTOR_TEST_SECRET"))
    end).

%% The context waits for the function, which looks at it.
of_a_function_that_it_calls(Config) ->
    Name = reactor_test:tag(),
    Test = self(),
    with_context(Config, #{}, fun(Context) ->
        ok = py:register_function(Name, fun() -> Test ! {seen, dump(Context, fun while_it_runs/1)}, ok end),
        {ok, <<"ok">>} = py:eval(Context, "erlang.call(name)", #{name => Name}),
        receive
            {seen, Dump} -> ?assertMatch(#{runs := true, stacks := [_ | _], connections := {unknown, _}}, Dump)
        end
    end),
    py:unregister_function(Name).

no_context(_Config) ->
    ?assertEqual({error, {no_context, 999999}}, py_reactor:dump(999999)),
    ?assertEqual({error, {no_context, nonsense}}, py_reactor:dump(nonsense)).
