%% Messages from Python to Erlang processes.
-module(messages_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3]).

-define(RECEIVE_MS, 30000).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        to_a_pid,
        to_a_name,
        to_a_name_and_node,
        to_another_node,
        from_another_thread,
        order_is_kept,
        to_the_dead,
        an_unknown_name_is_an_error,
        what_cannot_be_sent_is_an_error,
        messages_to_other_nodes_are_bounded,
        the_relay_may_die,
        self_is_the_context,
        self_of_a_thread_is_an_error,
        classes_are_exported
    ]).

expect(Message) ->
    receive
        Message -> ok
    after ?RECEIVE_MS -> error({expected, Message, process_info(self(), messages)})
    end.

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, letters, Function, Args),
    Value.

to_a_pid(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Ref = make_ref(),
        none = call(Context, send, [self(), {Ref, #{<<"a">> => [1, 2.5, none, {bytes, <<"b">>}]}}]),
        expect({Ref, #{<<"a">> => [1, 2.5, none, <<"b">>]}})
    end).

to_a_name(Config) ->
    with_context(Config, #{}, fun(Context) ->
        true = register('messages süite', self()),
        none = call(Context, send, [<<"messages süite"/utf8>>, hello]),
        true = unregister('messages süite'),
        expect(<<"hello">>)
    end).

to_a_name_and_node(Config) ->
    with_context(Config, #{}, fun(Context) ->
        true = register(messages_suite, self()),
        none = call(Context, send, [{messages_suite, node()}, hello]),
        expect(<<"hello">>),
        true = unregister(messages_suite)
    end).

%% By pid, and by a name that no atom of this node has.
to_another_node(Config) ->
    case start_peer() of
        {ok, Peer, Node} ->
            Name = <<"only_there_", (reactor_test:tag())/binary>>,
            Here = self(),
            Pid = erpc:call(Node, erlang, apply, [fun remote_echo/2, [Name, Here]]),
            with_context(Config, #{}, fun(Context) ->
                none = call(Context, send, [Pid, by_pid]),
                expect({Pid, <<"by_pid">>}),
                none = call(Context, send, [{Name, Node}, by_name]),
                expect({Pid, <<"by_name">>}),
                ?assertEqual([], call(Context, send_from_thread, [Pid, by_a_thread])),
                expect({Pid, <<"by_a_thread">>})
            end),
            peer:stop(Peer);
        {skip, _} = Skip ->
            Skip
    end.

remote_echo(Name, Parent) ->
    Pid = spawn(fun() -> remote_echo_loop(Parent) end),
    true = register(binary_to_atom(Name), Pid),
    Pid.

remote_echo_loop(Parent) ->
    receive
        Message -> Parent ! {self(), Message}
    end,
    remote_echo_loop(Parent).

start_peer() ->
    _ = os:cmd("epmd -daemon"),
    %% Another run on this machine must not have the name.
    case net_kernel:start([list_to_atom("messages_suite_" ++ os:getpid()), shortnames]) of
        {ok, _} -> peer();
        {error, {already_started, _}} -> peer();
        {error, Why} -> {skip, {no_distribution, Why}}
    end.

peer() ->
    {ok, Peer, Node} = peer:start_link(#{name => peer:random_name(), args => ["-pa" | code:get_path()], wait_boot => 60000}),
    {ok, Peer, Node}.

from_another_thread(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual([], call(Context, send_from_thread, [self(), hello])),
        expect(<<"hello">>)
    end).

order_is_kept(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Count = 20000,
        none = call(Context, send_numbers, [self(), Count]),
        [expect_next(Number) || Number <- lists:seq(0, Count - 1)]
    end).

expect_next(Number) ->
    receive
        Message -> ?assertEqual(Number, Message)
    after ?RECEIVE_MS -> error({expected, Number})
    end.

to_the_dead(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {Pid, Monitor} = spawn_monitor(fun() -> ok end),
        receive
            {'DOWN', Monitor, process, Pid, normal} -> ok
        end,
        none = call(Context, send, [Pid, hello])
    end).

an_unknown_name_is_an_error(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Atoms = erlang:system_info(atom_count),
        Names = [<<"nobody_", (integer_to_binary(N))/binary>> || N <- lists:seq(1, 100)],
        [
            ?assertEqual(
                <<"LookupError: no process of this node is registered as '", Name/binary, "'">>,
                call(Context, failure, [Name])
            )
         || Name <- Names
        ],
        %% Names of nobody make no atoms.
        ?assert(erlang:system_info(atom_count) - Atoms < 50)
    end).

what_cannot_be_sent_is_an_error(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual(<<"TypeError: a Python set cannot become an Erlang term">>, call(Context, send_a_set, [self()])),
        ?assertEqual(
            <<"TypeError: a message goes to an erlang.Pid, a registered name (str) or a tuple (name, node), not to int">>,
            call(Context, send_to_no_name, [])
        ),
        Long = binary:copy(<<"x">>, 256),
        ?assertMatch(<<"ValueError: ", _/binary>>, call(Context, failure, [{Long, node()}])),
        receive
            Unexpected -> error({received, Unexpected})
        after 0 -> ok
        end
    end).

messages_to_other_nodes_are_bounded(Config) ->
    with_context(Config, #{}, fun(Context) ->
        true = register(messages_suite, self()),
        ok = sys:suspend(py_relay),
        Taken = call(Context, fill, [{messages_suite, node()}]),
        ok = sys:resume(py_relay),
        ?assertEqual(1024, Taken),
        [expect({<<"filled">>, N}) || N <- lists:seq(0, Taken - 1)],
        none = call(Context, send, [{messages_suite, node()}, again]),
        expect(<<"again">>),
        true = unregister(messages_suite)
    end).

%% What waits for it is sent by its successor.
the_relay_may_die(Config) ->
    with_context(Config, #{}, fun(Context) ->
        true = register(messages_suite, self()),
        ok = sys:suspend(py_relay),
        none = call(Context, send, [{messages_suite, node()}, patience]),
        exit(whereis(py_relay), kill),
        expect(<<"patience">>),
        true = unregister(messages_suite)
    end).

self_is_the_context(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertEqual(Context, call(Context, own_pid, []))
    end).

self_of_a_thread_is_an_error(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assertMatch(<<"erlang.self() is known on the thread of a context only", _/binary>>, call(Context, own_pid_of_a_thread, []))
    end).

classes_are_exported(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ?assert(call(Context, is_a_pid, [self()])),
        ?assertNot(call(Context, is_a_pid, [make_ref()])),
        ?assert(call(Context, is_a_ref, [make_ref()]))
    end).
