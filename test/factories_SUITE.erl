%% Factories, and what a protocol is told of its connection.
-module(factories_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3, serving/3, client/2, client/3, send/2, expect/2, expect_eof/1, wait_lost/2]).

-define(COLLECTS_LOGS, true).
-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        a_class,
        a_lambda,
        a_partial,
        a_bound_method,
        a_class_without_super,
        one_protocol_per_connection,
        the_last_factory_serves_new_connections,
        no_factory,
        a_factory_that_raises,
        a_factory_that_makes_no_protocol,
        the_same_instance_twice,
        what_is_not_callable_is_refused,
        get_protocol_by_fd,
        close_connection_by_fd,
        client_info_address,
        client_info_values,
        client_info_errors,
        attributes_are_set_before_connection_made
    ]).

%% With a context whose factory is that expression.
made_by(Config, Expression, Fun) ->
    with_context(Config, #{}, fun(Context) ->
        ok = set_factory(Context, Expression),
        Fun(Context)
    end).

set_factory(Context, Expression) ->
    py:exec(Context, ["import functools, factories, erlang.reactor as reactor\nreactor.set_protocol_factory(", Expression, ")"]).

greeted(Context, Config, Greeting) ->
    {Client, _} = client(Context, Config),
    expect(Client, Greeting),
    gen_tcp:close(Client).

refused(Context, Config, Texts) ->
    {Client, _} = client(Context, Config),
    expect_eof(Client),
    {ok, Id} = py_reactor_table:id(Context),
    {error, _, #{fd := Fd}} = log_collector:await(Id, Texts),
    ?assert(is_integer(Fd)),
    reactor_test:wait_connections(Context, 0),
    ?assertEqual({ok, 2}, py:eval(Context, "1 + 1")).

a_class(Config) ->
    made_by(Config, "factories.Greeter", fun(Context) -> greeted(Context, Config, <<"hello">>) end).

a_lambda(Config) ->
    made_by(Config, "lambda: factories.Greeter(b'from a lambda')", fun(Context) ->
        greeted(Context, Config, <<"from a lambda">>)
    end).

a_partial(Config) ->
    made_by(Config, "functools.partial(factories.Greeter, greeting=b'partial')", fun(Context) ->
        greeted(Context, Config, <<"partial">>)
    end).

a_bound_method(Config) ->
    made_by(Config, "factories.Maker(b'number ').make", fun(Context) ->
        greeted(Context, Config, <<"number 1">>),
        greeted(Context, Config, <<"number 2">>)
    end).

a_class_without_super(Config) ->
    made_by(Config, "factories.WithoutSuper", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"fd=True info=127.0.0.1 closed=False buffer=0">>),
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0)
    end).

one_protocol_per_connection(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        Clients = [client(Context, Config) || _ <- lists:seq(1, 50)],
        [send(Client, Tag) || {Client, Tag} <- Clients],
        [expect(Client, Tag) || {Client, Tag} <- Clients],
        [
            ?assertEqual([{<<"connection_made">>, <<>>}, {<<"data_received">>, Tag}], reactor_test:events(Context, Tag))
         || {_, Tag} <- Clients
        ]
    end).

%% Connections that there are keep their protocol.
the_last_factory_serves_new_connections(Config) ->
    made_by(Config, "recorder.Recording if __import__('recorder') and (recorder := __import__('recorder')) else None", fun(Context) ->
        {Old, _} = client(Context, Config),
        send(Old, <<"1">>),
        expect(Old, <<"1">>),
        ok = set_factory(Context, "factories.Greeter"),
        greeted(Context, Config, <<"hello">>),
        send(Old, <<"2">>),
        expect(Old, <<"2">>)
    end).

no_factory(Config) ->
    with_context(Config, #{}, fun(Context) ->
        refused(Context, Config, ["has no protocol factory", "set_protocol_factory"]),
        ok = set_factory(Context, "factories.Greeter"),
        greeted(Context, Config, <<"hello">>)
    end).

a_factory_that_raises(Config) ->
    made_by(Config, "factories.raises", fun(Context) ->
        refused(Context, Config, ["Traceback", "factories.py", "ValueError: not today"])
    end).

a_factory_that_makes_no_protocol(Config) ->
    [
        made_by(Config, Expression, fun(Context) ->
            refused(Context, Config, [Shown, "not an instance of erlang.reactor.Protocol"])
        end)
     || {Expression, Shown} <- [{"lambda: None", "None"}, {"lambda: 7", "7"}, {"dict", "{}"}, {"lambda: factories.Greeter", "Greeter"}]
    ].

%% A second connection on the same object would mix the two: the first goes on, the second is closed.
the_same_instance_twice(Config) ->
    made_by(Config, "lambda instance=factories.Echo(): instance", fun(Context) ->
        {Client, _} = client(Context, Config),
        send(Client, <<"1">>),
        expect(Client, <<"1">>),
        {Second, _} = client(Context, Config),
        expect_eof(Second),
        {ok, Id} = py_reactor_table:id(Context),
        _ = log_collector:await(Id, ["already served", "new one for each connection"]),
        send(Client, <<"2">>),
        expect(Client, <<"2">>),
        gen_tcp:close(Client),
        reactor_test:wait_connections(Context, 0),
        %% Nor may it be used again afterwards.
        refused(Context, Config, ["already served"])
    end).

what_is_not_callable_is_refused(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {error, {python_error, #{type := <<"TypeError">>, message := Message}}} = set_factory(Context, "'Greeter'"),
        ?assertMatch({match, _}, re:run(Message, "must be callable"))
    end).

get_protocol_by_fd(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        {ok, Fd} = py:call(Context, factories, fd_of, [Tag]),
        ?assertEqual({ok, true}, py:call(Context, factories, is_protocol_of, [Tag, Fd])),
        ?assertEqual({ok, none}, py:call(Context, 'erlang.reactor', get_protocol, [1000000])),
        ?assertEqual({ok, none}, py:call(Context, 'erlang.reactor', get_protocol, [-1])),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        ?assertEqual({ok, none}, py:call(Context, 'erlang.reactor', get_protocol, [Fd]))
    end).

close_connection_by_fd(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        send(Client, <<"x">>),
        expect(Client, <<"x">>),
        {ok, Fd} = py:call(Context, factories, fd_of, [Tag]),
        {ok, none} = py:call(Context, 'erlang.reactor', close_connection, [1000000]),
        send(Client, <<"y">>),
        expect(Client, <<"y">>),
        {ok, none} = py:call(Context, 'erlang.reactor', close_connection, [Fd]),
        expect_eof(Client),
        wait_lost(Context, Tag)
    end).

info(Context, Config, Info) ->
    {Client, Tag} = client(Context, Config, Info),
    reactor_test:wait_event(Context, Tag, <<"connection_made">>),
    {ok, Shown} = py:call(Context, factories, client_info, [Tag]),
    gen_tcp:close(Client),
    maps:remove(<<"tag">>, Shown).

client_info_address(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        [
            ?assertMatch(#{<<"addr">> := Text}, info(Context, Config, #{addr => Address}))
         || {Address, Text} <- [
                {<<"127.0.0.1">>, <<"str:127.0.0.1">>},
                {"127.0.0.1", <<"str:127.0.0.1">>},
                {inet:ntoa({127, 0, 0, 1}), <<"str:127.0.0.1">>},
                {{127, 0, 0, 1}, <<"str:127.0.0.1">>},
                {{0, 0, 0, 0, 0, 0, 0, 1}, <<"str:::1">>},
                {inet:ntoa({0, 0, 0, 0, 0, 0, 0, 1}), <<"str:::1">>},
                {<<"/run/some/socket">>, <<"str:/run/some/socket">>},
                {"/run/some/socket", <<"str:/run/some/socket">>},
                {{local, "/run/some/socket"}, <<"str:/run/some/socket">>},
                {{local, <<"/run/some/socket">>}, <<"str:/run/some/socket">>},
                {<<>>, <<"str:">>},
                {"", <<"str:">>}
            ]
        ]
    end).

client_info_values(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        Info = #{type => unix, port => 80, <<"binary key">> => 1, "string key" => 2, list => [1, <<"two">>], map => #{deep => nil}},
        ?assertEqual(
            #{
                <<"addr">> => <<"str:127.0.0.1">>,
                <<"port">> => <<"int:80">>,
                <<"type">> => <<"str:unix">>,
                <<"binary key">> => <<"int:1">>,
                <<"string key">> => <<"int:2">>,
                <<"list">> => <<"list:[1, 'two']">>,
                <<"map">> => <<"dict:{'deep': None}">>
            },
            info(Context, Config, Info)
        )
    end).

client_info_errors(Config) ->
    serving(Config, "recorder.Recording", fun(Context) ->
        {Client, Server} = reactor_test:pair(Config),
        [
            ?assertMatch({error, {bad_info, Why}} when is_binary(Why), py_reactor_context:handoff(Context, Server, Info))
         || Info <- [not_a_map, [], [{addr, <<"x">>}], #{addr => 5}, #{addr => {1, 2, 3}}, #{addr => <<255>>}, #{5 => x}, #{addr => nowhere}]
        ],
        %% Nothing was taken away: it still works by hand.
        ok = gen_tcp:send(Server, <<"still mine">>),
        expect(Client, <<"still mine">>)
    end).

attributes_are_set_before_connection_made(Config) ->
    made_by(Config, "factories.LooksAtItself", fun(Context) ->
        {Client, _} = client(Context, Config),
        expect(Client, <<"True True False 0">>)
    end).
