%% get_extra_info of connections that a reactor serves: asyncio's names, over duplicates made in native code.
-module(extra_info_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/2, send/2, expect/2, wait_event/3, wait_lost/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        addresses,
        the_socket_is_a_duplicate,
        duplicates_go_again,
        after_the_end,
        of_a_pipe
    ]).

served(Config, Fun) ->
    serving(Config, "extras.Asks", fun(Context) ->
        {Client, Tag} = client(Context, Config),
        wait_event(Context, Tag, <<"connection_made">>),
        Fun(Context, Client, Tag)
    end).

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, extras, Function, Args),
    Value.

addresses(Config) ->
    served(Config, fun(_Context, Client, _Tag) ->
        {ok, {_, Ours}} = inet:sockname(Client),
        {ok, {_, Theirs}} = inet:peername(Client),
        [
            begin
                send(Client, Name),
                expect(Client, iolist_to_binary(Said))
            end
         || {Name, Said} <- [
                {<<"peername">>, io_lib:format("('127.0.0.1', ~b)", [Ours])},
                {<<"sockname">>, io_lib:format("('127.0.0.1', ~b)", [Theirs])},
                {<<"pipe">>, "None"},
                {<<"sslcontext">>, "None"}
            ]
        ]
    end).

the_socket_is_a_duplicate(Config) ->
    served(Config, fun(Context, Client, Tag) ->
        ?assertEqual([], call(Context, look, [Tag])),
        send(Client, <<"cipher">>),
        expect(Client, <<"None">>)
    end).

duplicates_go_again(Config) ->
    served(Config, fun(Context, _Client, Tag) -> ?assertEqual(0, call(Context, ask_often, [Tag])) end).

%% What was asked for is closed with the connection: the peer sees the end, and no descriptor is left.
after_the_end(Config) ->
    serving(Config, "extras.Asks", fun(Context) ->
        Before = os_resources:snapshot(),
        {Client, Tag} = client(Context, Config),
        wait_event(Context, Tag, <<"connection_made">>),
        ?assertEqual([], call(Context, look, [Tag])),
        ok = gen_tcp:shutdown(Client, write),
        reactor_test:expect_eof(Client),
        wait_lost(Context, Tag),
        ?assertEqual([false, true, true], call(Context, after_the_end, [Tag])),
        gen_tcp:close(Client),
        os_resources:wait_back_to(Before)
    end).

of_a_pipe(Config) ->
    serving(Config, "extras.Asks", fun(Context) ->
        {ok, {Reading, Writing}} = py:eval(Context, "__import__('os').pipe()"),
        Tag = reactor_test:tag(),
        ok = py_reactor_context:handoff(Context, Reading, #{tag => Tag}),
        wait_event(Context, Tag, <<"connection_made">>),
        ?assertEqual([true, true, true, false], call(Context, pipe, [Tag])),
        [{ok, none} = py:call(Context, os, close, [Fd]) || Fd <- [Reading, Writing]],
        wait_lost(Context, Tag)
    end).
