%% Connections of the protocols in test/protocols/mailed.py, for suites.
-module(mailed_test).

-export([mailed/3, fd/2, connection/2, messages/2, call/3]).

-import(reactor_test, [serving/3, client/3, events/2, wait_event/3, wait_lost/2]).

%% A connection of mailed.Mailed, whose script may say more: Fun(Context, Client, Tag, Fd).
mailed(Config, Script, Fun) ->
    serving(Config, "mailed.Mailed", fun(Context) ->
        {Client, Tag} = client(Context, Config, #{script => Script}),
        wait_event(Context, Tag, <<"connection_made">>),
        Result = Fun(Context, Client, Tag, fd(Context, Tag)),
        gen_tcp:close(Client),
        wait_lost(Context, Tag),
        Result
    end).

fd(Context, Tag) ->
    maps:get(fd, connection(Context, Tag)).

connection(Context, Tag) ->
    [Info] = [Info || #{client_info := #{<<"tag">> := T}} = Info <- py_reactor_context:connections(Context), T =:= Tag],
    Info.

messages(Context, Tag) ->
    [Message || {<<"message_received">>, Message} <- events(Context, Tag)].

call(Context, Function, Args) ->
    {ok, Value} = py:call(Context, mailed, Function, Args),
    Value.
