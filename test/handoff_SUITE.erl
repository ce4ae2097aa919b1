%% Who owns a descriptor: every way to hand one over, and what each way leaves behind.
-module(handoff_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, send/2, expect/2, expect_eof/1]).

-define(CYCLES, 2000).

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].

groups() ->
    reactor_test:backend_groups([
        every_way_is_served,
        every_way_leaves_nothing_behind,
        the_client_sees_the_end_although_a_copy_is_open,
        a_port_of_another_process_is_left_alone,
        bytes_that_came_before_the_handoff_are_delivered,
        output_that_erlang_sent_before_comes_first,
        duplicates_are_closed_on_exec,
        method_2_coroutine,
        method_2_blocking_wrapper,
        method_3_connects_back
    ]).

init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

info() ->
    #{addr => inet:ntoa({127, 0, 0, 1}), port => 1, type => tcp}.

exchange(Client) ->
    Data = crypto:strong_rand_bytes(1 + rand:uniform(20000)),
    send(Client, Data),
    expect(Client, Data).

every_way_is_served(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        [
            begin
                ct:log("~p", [Way]),
                Client = sources:serve(Way, Context, info()),
                exchange(Client),
                exchange(Client),
                ok = gen_tcp:shutdown(Client, write),
                expect_eof(Client),
                reactor_test:wait_connections(Context, 0)
            end
         || Way <- sources:ways()
        ],
        py_reactor:stop_listener({sources, Context})
    end).

%% Half of the connections say something first; the others end at once.
every_way_leaves_nothing_behind(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        [
            begin
                cycles(Way, Context, 20),
                reactor_test:wait_connections(Context, 0),
                Before = os_resources:snapshot(),
                cycles(Way, Context, ?CYCLES),
                reactor_test:wait_connections(Context, 0),
                ct:log("~p: ~p, now ~p", [Way, Before, os_resources:snapshot()]),
                os_resources:wait_back_to(Before)
            end
         || Way <- sources:ways()
        ],
        #{accepted := Accepted, closed := Accepted, exceptions := 0} = py_reactor_context:stats(Context),
        ?assertEqual(length(sources:ways()) * (20 + ?CYCLES), Accepted),
        py_reactor:stop_listener({sources, Context})
    end).

cycles(Way, Context, Count) ->
    [
        begin
            Client = sources:serve(Way, Context, info()),
            case N rem 2 of
                0 ->
                    send(Client, <<"hello">>),
                    expect(Client, <<"hello">>);
                1 ->
                    ok
            end,
            gen_tcp:close(Client)
        end
     || N <- lists:seq(1, Count)
    ].

%% Erlang holds the socket all the time, and still the client sees the end when Python ends the connection.
the_client_sees_the_end_although_a_copy_is_open(Config) ->
    serving(Config, "recorder.Scripted", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        Script = #{data_received => [{<<"bye">>, close}]},
        ok = py_reactor_context:handoff(Context, Duplicate, #{script => Script}),
        send(Client, <<"x">>),
        expect(Client, <<"bye">>),
        expect_eof(Client),
        ?assertNotEqual(undefined, erlang:port_info(Server)),
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        %% Our closing did not close the other's.
        ?assertEqual({ok, Fd}, inet:getfd(Server))
    end).

a_port_of_another_process_is_left_alone(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        Test = self(),
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        Owner = spawn_link(fun() ->
            receive
                give_up -> Test ! {given_up, gen_tcp:close(Server)}
            end
        end),
        ok = gen_tcp:controlling_process(Server, Owner),
        ok = py_reactor_context:handoff(Context, Fd, info()),
        exchange(Client),
        ?assertEqual({connected, Owner}, erlang:port_info(Server, connected)),
        Owner ! give_up,
        receive
            {given_up, ok} -> ok
        end,
        exchange(Client)
    end).

bytes_that_came_before_the_handoff_are_delivered(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        send(Client, <<"early">>),
        ok = py_reactor_context:handoff(Context, Server, info()),
        expect(Client, <<"early">>),
        %% So are those that came before the end of the input.
        {Short, ShortServer} = reactor_test:pair(Config),
        send(Short, <<"all of it">>),
        ok = gen_tcp:shutdown(Short, write),
        ok = py_reactor_context:handoff(Context, ShortServer, info()),
        expect(Short, <<"all of it">>),
        expect_eof(Short)
    end).

output_that_erlang_sent_before_comes_first(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        ok = gen_tcp:send(Server, <<"from Erlang ">>),
        ok = py_reactor_context:handoff(Context, Server, info()),
        send(Client, <<"from Python">>),
        expect(Client, <<"from Erlang from Python">>),
        %% What the driver still holds cannot be moved.
        {Full, FullServer} = reactor_test:pair(Config, [{sndbuf, 4096}, {recbuf, 4096}, {high_watermark, 10000000}]),
        ok = gen_tcp:send(FullServer, binary:copy(<<"x">>, 5000000)),
        ?assertMatch({error, {output_pending, Bytes, _}} when Bytes > 0, py_reactor_context:handoff(Context, FullServer, info())),
        ?assertNotEqual(undefined, erlang:port_info(FullServer)),
        gen_tcp:close(Full)
    end).

duplicates_are_closed_on_exec(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        ?assertEqual({ok, false}, py:call(Context, os, get_inheritable, [Duplicate])),
        ok = py_reactor_context:handoff(Context, Server, #{tag => <<"exec">>}),
        exchange(Client),
        {ok, Served} = py:call(Context, handlers, fd_of, [<<"exec">>]),
        ?assertEqual({ok, false}, py:call(Context, os, get_inheritable, [Served])),
        ok = py_nif:close_fd(Duplicate)
    end).

%% The document's asyncio sample, as it stands.
samples(Config, Fun) ->
    Samples = filename:join([filename:dirname(code:which(?MODULE)), "python", "samples"]),
    with_context(Config, #{python_path => [Samples, reactor_test:python_path()]}, Fun).

asyncio_sample(Config, Function) ->
    samples(Config, fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        {ok, Duplicate} = py:dup_fd(Fd),
        ok = gen_tcp:close(Server),
        send(Client, <<"hello">>),
        Before = os_resources:snapshot(),
        ?assertEqual({ok, none}, py:call(Context, asyncio_handler, Function, [Duplicate])),
        ?assertEqual(<<"Echo: hello">>, reactor_test:receive_all(Client)),
        gen_tcp:close(Client),
        os_resources:wait_back_to(Before)
    end).

method_2_coroutine(Config) ->
    asyncio_sample(Config, handle_connection).

method_2_blocking_wrapper(Config) ->
    asyncio_sample(Config, handle_connection_sync).

method_3_connects_back(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
        {ok, {Address, Port}} = inet:sockname(Listen),
        {ok, none} = py:call(Context, handlers, connect_to, [list_to_binary(inet:ntoa(Address)), Port]),
        {ok, Server} = gen_tcp:accept(Listen),
        ?assertEqual(<<"hello from a new socket">>, reactor_test:receive_all(Server))
    end).
