%% What programs written for erlang_python rely on, and docs/migrating.md promises them.
-module(migrating_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [send/2, expect/2, with_context/3, serving/3, wait_until/1, wait_equal/2]).

all() ->
    [{group, Backend} || Backend <- reactor_test:backends()].

groups() ->
    reactor_test:backend_groups([
        a_message_hands_over,
        a_message_that_cannot,
        unknown_messages_are_logged_once,
        erlang_needs_no_import,
        a_buffer_of_hexadecimal_digits,
        cast_with_context_and_keywords,
        contexts_with_numbers,
        what_is_no_context_and_what_are_no_locals
    ]).

init_per_group(Group, Config) ->
    reactor_test:init_group(Group, Config).

end_per_group(_Group, _Config) ->
    ok.

init_per_testcase(_Case, Config) ->
    log_collector:install(),
    Config.

end_per_testcase(_Case, _Config) ->
    log_collector:remove().

%% The socket stays the sender's; a duplicate of py:dup_fd/1 goes over.
a_message_hands_over(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        [
            begin
                {Client, Server} = reactor_test:pair(Config),
                {ok, Fd} = inet:getfd(Server),
                Context ! {fd_handoff, Number(Fd), #{type => tcp}},
                send(Client, <<"hello">>),
                expect(Client, <<"hello">>),
                ?assertEqual({ok, Fd}, inet:getfd(Server)),
                ok = gen_tcp:close(Server),
                send(Client, <<"again">>),
                expect(Client, <<"again">>),
                gen_tcp:close(Client)
            end
         || Number <- [fun(Fd) -> Fd end, fun(Fd) -> {ok, Duplicate} = py:dup_fd(Fd), Duplicate end]
        ],
        wait_equal(0, fun() -> maps:get(connections, py_reactor_context:stats(Context)) end)
    end).

a_message_that_cannot(Config) ->
    serving(Config, "streams.Echo", fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        {_Client, Server} = reactor_test:pair(Config),
        {ok, Fd} = inet:getfd(Server),
        [
            begin
                Context ! {fd_handoff, No, Info},
                {warning, _, _} = log_collector:await(Id, ["fd_handoff", Why])
            end
         || {No, Info, Why} <- [
                {999999, #{}, "bad_fd"},
                {-1, #{}, "bad_fd"},
                {Server, #{}, "bad_fd"},
                {<<"3">>, #{}, "bad_fd"},
                {Fd, nonsense, "bad_info"}
            ]
        ],
        %% A duplicate is gone whatever becomes of it.
        {ok, Duplicate} = py:dup_fd(Fd),
        Context ! {fd_handoff, Duplicate, nonsense},
        _ = log_collector:await(Id, ["fd_handoff", "bad_info"]),
        ?assertEqual({error, {bad_fd, Duplicate}}, py:close_fd(Duplicate)),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

unknown_messages_are_logged_once(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Context ! {what, is, this},
        {warning, _, _} = log_collector:await(Id, ["{what,is,this}"]),
        [Context ! {and_this, N} || N <- lists:seq(1, 100)],
        gen_server:cast(Context, and_that),
        {error, {unknown_request, why}} = gen_server:call(Context, why, 30000),
        ?assertEqual([], [Line || Line <- log_collector:flush(), string:find(Line, "know") =/= nomatch]),
        ?assertEqual({ok, 2}, py:eval(Context, "1 + 1"))
    end).

erlang_needs_no_import(Config) ->
    with_context(Config, #{setup_code => "factory = erlang.reactor.Protocol"}, fun(Context) ->
        ?assertEqual({ok, true}, py:eval(Context, "factory is erlang.reactor.Protocol")),
        ?assertEqual({ok, true}, py:eval(Context, "erlang.ReactorBuffer is erlang.reactor.ReactorBuffer")),
        ok = py:exec(Context, "own = erlang.self()"),
        ?assertEqual({ok, Context}, py:eval(Context, "own"))
    end).

a_buffer_of_hexadecimal_digits(Config) ->
    with_context(Config, #{}, fun(Context) ->
        Types = "[type(made).__name__ for made in (erlang.ReactorBuffer.fromhex('6162'), erlang.ReactorBuffer(b'x').fromhex('61 62'))]",
        ?assertEqual({ok, [<<"bytes">>, <<"bytes">>]}, py:eval(Context, Types)),
        ?assertEqual({ok, <<"ab">>}, py:eval(Context, "erlang.ReactorBuffer.fromhex('61 62')")),
        ?assertMatch({error, {python_error, #{type := <<"ValueError">>}}}, py:eval(Context, "erlang.ReactorBuffer.fromhex('6')")),
        ?assertMatch({error, {python_error, #{type := <<"TypeError">>}}}, py:eval(Context, "erlang.ReactorBuffer.fromhex((1, 2))"))
    end).

cast_with_context_and_keywords(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, "said = []\ndef say(*args, **kwargs): said.append([args, kwargs])"),
        ok = py:cast(Context, '__main__', say, [1], #{k => 2}),
        ?assertEqual({ok, [[{1}, #{<<"k">> => 2}]]}, py:eval(Context, "said")),
        ?assertMatch({error, {bad_argument, kwargs, _, _}}, py:cast(Context, '__main__', say, [1], 2))
    end).

contexts_with_numbers(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Id} = py_reactor_table:id(Context),
        Numbered = py:contexts(numbered),
        ?assert(lists:member({Id, Context}, Numbered)),
        ?assertEqual(py:contexts(), [Pid || {_, Pid} <- Numbered])
    end),
    ?assertMatch({error, {bad_option, contexts, 2, _}}, py:start_contexts(#{contexts => 2, count => 2})),
    ?assertMatch({error, {bad_option, count, 0, _}}, py:start_contexts(#{contexts => 0})).

what_is_no_context_and_what_are_no_locals(_Config) ->
    [
        ?assertMatch({error, {bad_argument, locals, No, _}}, py:eval(Text, No))
     || Text <- [<<"1">>, "1"], No <- [[], <<"2">>, 1, none]
    ],
    [
        ?assertEqual({error, {no_context, No}}, py:eval(No, <<"1">>))
     || No <- [nowhere, {1}, 99999999]
    ].
