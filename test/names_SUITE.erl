%% Names that outlive their connection reach it or nobody; other threads reach it as its own does.
-module(names_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [
    serving/3, client/2, client/3, send/2, expect/2, expect_eof/1, events/2, methods/2, wait_event/3, wait_lost/2, wait_until/1
]).

all() ->
    [{group, Group} || Group <- reactor_test:backends() ++ [apart]].

groups() ->
    reactor_test:backend_groups([
        a_late_worker_reaches_nobody,
        a_late_worker_of_a_number_that_is_used_again,
        signal_from_a_worker,
        close_from_a_thread,
        close_on_the_contexts_thread,
        a_signal_goes_before_a_close,
        notify_oneself_from_a_thread,
        the_handle_is_the_one_that_erlang_knows,
        functions_take_handles,
        get_protocol_from_a_thread,
        what_names_no_connection,
        attributes_of_the_same_names,
        by_hand_inside_the_vm
    ]) ++
        [
            {apart, [], [
                get_protocol_of_another_interpreter,
                get_protocol_of_another_context_of_the_interpreter,
                close_in_another_interpreter
            ]}
        ].

init_per_group(apart, Config) ->
    reactor_test:init_group(epoll, Config);
init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, names, Function, Args),
    Value.

fd(Context, Tag) ->
    maps:get(fd, mailed_test:connection(Context, Tag)).

%% Fun(Context, Client, Tag), with a connection of Mailed that waits for a signal.
waiting(Config, Fun) ->
    serving(Config, "names.Mailed", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"wait">>),
        wait_event(Context, Tag, <<"data_received">>),
        wait_until(fun() -> maps:get(state, mailed_test:connection(Context, Tag)) =:= async end),
        Fun(Context, Client, Tag)
    end).

a_late_worker_reaches_nobody(Config) ->
    serving(Config, "names.Slow", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"abc">>),
        wait_until(fun() -> maps:get(state, mailed_test:connection(Context, Tag)) =:= async end),
        ok = py_reactor_context:close(Context, fd(Context, Tag)),
        wait_lost(Context, Tag),
        {ok, _} = py:call(Context, recorder, release, [Tag]),
        wait_until(fun() -> lists:member({<<"signalled">>, false}, events(Context, Tag)) end)
    end).

%% The first client has gone, the second has its number and waits for its own answer.
a_late_worker_of_a_number_that_is_used_again(Config) ->
    serving(Config, "names.Slow", fun(Context) ->
        {First, Tag} = client(Context, Config),
        send(First, <<"first">>),
        wait_until(fun() -> maps:get(state, mailed_test:connection(Context, Tag)) =:= async end),
        Fd = fd(Context, Tag),
        ok = py_reactor_context:close(Context, Fd),
        gen_tcp:close(First),
        wait_lost(Context, Tag),
        {Others, {Second, SecondTag}} = with_number(Context, Config, Fd, []),
        send(Second, <<"second">>),
        wait_until(fun() -> maps:get(state, mailed_test:connection(Context, SecondTag)) =:= async end),
        {ok, _} = py:call(Context, recorder, release, [Tag]),
        wait_until(fun() -> lists:member({<<"signalled">>, false}, events(Context, Tag)) end),
        [?assertEqual(none, call(Context, method, [Tag, close])) || _ <- [1, 2]],
        ?assertEqual(false, call(Context, method, [Tag, notify, hello])),
        ?assertMatch(#{state := async}, mailed_test:connection(Context, SecondTag)),
        {ok, _} = py:call(Context, recorder, release, [SecondTag]),
        expect(Second, <<"dnoces">>),
        [gen_tcp:close(Client) || {Client, _} <- Others]
    end).

%% Connects until a connection has this number.
with_number(Context, Config, Fd, Others) ->
    {_, Tag} = New = client(Context, Config),
    wait_event(Context, Tag, <<"connection_made">>),
    case fd(Context, Tag) of
        Fd -> {Others, New};
        _ when length(Others) < 100 -> with_number(Context, Config, Fd, [New | Others])
    end.

signal_from_a_worker(Config) ->
    serving(Config, "names.Slow", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"abc">>),
        wait_event(Context, Tag, <<"connection_made">>),
        {ok, _} = py:call(Context, recorder, release, [Tag]),
        expect(Client, <<"cba">>),
        wait_until(fun() -> lists:member({<<"signalled">>, true}, events(Context, Tag)) end)
    end).

close_from_a_thread(Config) ->
    [
        waiting(Config, fun(Context, Client, Tag) ->
            ?assertEqual(none, Close(Context, Tag)),
            expect_eof(Client),
            wait_lost(Context, Tag)
        end)
     || Close <- [
            fun(Context, Tag) -> call(Context, method_from_thread, [Tag, close]) end,
            fun(Context, Tag) -> call(Context, function_from_thread, [close_connection, fd(Context, Tag)]) end,
            fun(Context, Tag) -> call(Context, function_from_thread, [close_connection, call(Context, handle, [Tag])]) end
        ]
    ].

close_on_the_contexts_thread(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        ?assertEqual(none, call(Context, method, [Tag, close])),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

%% What a worker has put into write_buffer is sent although it closes at once.
a_signal_goes_before_a_close(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        Code = io_lib:format(
            "import names, recorder\n"
            "def work(proto):\n"
            "    proto.write_buffer += b'last'\n"
            "    proto.signal_write_ready()\n"
            "    proto.close()\n"
            "names.in_thread(work, recorder.protocol('~s'))\n",
            [Tag]
        ),
        ok = py:exec(Context, iolist_to_binary(Code)),
        expect(Client, <<"last">>),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

notify_oneself_from_a_thread(Config) ->
    waiting(Config, fun(Context, _Client, Tag) ->
        ?assertEqual(true, call(Context, method_from_thread, [Tag, notify, hello])),
        ?assertEqual(true, call(Context, method, [Tag, notify, again])),
        wait_until(fun() -> mailed_test:messages(Context, Tag) =:= [<<"hello">>, <<"again">>] end)
    end).

the_handle_is_the_one_that_erlang_knows(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        #{connection := Handle, fd := Fd} = mailed_test:connection(Context, Tag),
        ?assertEqual(Handle, call(Context, handle, [Tag])),
        ?assertEqual(Handle, call(Context, function, [connection_handle, Fd])),
        ?assertEqual(Handle, call(Context, function, [connection_handle, Handle])),
        ok = py_reactor_context:close(Context, call(Context, handle, [Tag])),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual(Handle, call(Context, handle, [Tag]))
    end).

functions_take_handles(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        #{connection := {Fd, _, _} = Handle} = mailed_test:connection(Context, Tag),
        ?assertEqual(true, call(Context, is_found, [Tag, Handle])),
        ?assertEqual(true, call(Context, function, [notify, Handle, hello])),
        ?assertEqual(true, call(Context, function, [signal_write_ready, Handle])),
        ?assertEqual([none, false, false, none, none], call(Context, use_by_name, [setelement(3, Handle, 1 bsl 60)])),
        ?assertEqual([none, false, false, none, none], call(Context, use_by_name, [setelement(1, Handle, Fd + 1000)])),
        send(Client, <<"still there">>),
        wait_until(fun() -> lists:member({<<"data_received">>, <<"still there">>}, events(Context, Tag)) end),
        ?assertEqual(none, call(Context, function, [close_connection, Handle])),
        expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual([none, false, false, none, none], call(Context, use_by_name, [Handle]))
    end).

get_protocol_from_a_thread(Config) ->
    waiting(Config, fun(Context, _Client, Tag) ->
        #{connection := {Fd, _, _} = Handle} = mailed_test:connection(Context, Tag),
        [?assertEqual(true, call(Context, is_found_from_thread, [Tag, Name])) || Name <- [Fd, Handle]]
    end).

what_names_no_connection(Config) ->
    serving(Config, "names.Mailed", fun(Context) ->
        ?assertEqual([none, false, false, none, none], call(Context, use_by_name, [-1])),
        ?assertEqual([], call(Context, handles_of_no_connection, []))
    end).

attributes_of_the_same_names(Config) ->
    serving(Config, "names.Taken", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

by_hand_inside_the_vm(Config) ->
    serving(Config, "names.Mailed", fun(Context) ->
        ?assertEqual(true, call(Context, handle_by_hand, []))
    end).

get_protocol_of_another_interpreter(Config) ->
    Own = [{mode, subinterp} | Config],
    waiting(Config, fun(Context, _Client, Tag) ->
        serving(Own, "names.Mailed", fun(Other) ->
            <<"RuntimeError: ", Why/binary>> = call(Other, class_found, [fd(Context, Tag)]),
            ?assertNotEqual(nomatch, string:find(Why, "another interpreter"))
        end)
    end).

get_protocol_of_another_context_of_the_interpreter(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        serving(Config, "names.Mailed", fun(Other) ->
            ?assertEqual(<<"Mailed">>, call(Other, class_found, [fd(Context, Tag)])),
            ?assertEqual(none, call(Other, function, [close_connection, call(Context, handle, [Tag])])),
            expect_eof(Client),
            wait_lost(Context, Tag)
        end)
    end).

%% No object goes there, so that it works.
close_in_another_interpreter(Config) ->
    waiting(Config, fun(Context, Client, Tag) ->
        serving([{mode, subinterp} | Config], "names.Mailed", fun(Other) ->
            ?assertEqual(none, call(Other, function, [close_connection, fd(Context, Tag)])),
            expect_eof(Client),
            wait_lost(Context, Tag)
        end)
    end).
