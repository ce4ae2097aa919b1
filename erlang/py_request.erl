%% @doc One request to a context's thread: its arguments in the form that the native half wants, and the wait for the
%% answer.
%% @private
-module(py_request).

-export([encode/1, run/2, run_or_give_up/4, run_or_cancel/4, run_within/3, run_anyway/2, run_anyway/3, awaited_by/1, refused/1]).
-export([wait/5, insist/2]).
-export_type([argument/0, send/0]).

-type argument() :: {code | expression | module | function | args | locals | kwargs | timeout, term()}.
-type send() :: fun((py_nif:asker()) -> ok | {error, term()}).
%% To be answered as that says.
-type ticket() :: {py_nif:ctx(), py_nif:ticket()} | none.
%% By which the request is given up when its time is over; and, if it is a task, when the caller has died.

%% What a timer takes.
-define(TIMEOUT_MAX, 16#FFFFFFFF).

%% So long after a request was given up, what still runs for it is interrupted once more.
-define(INSIST_AFTER_MS, 5000).

%% In the process dictionary: the contexts that wait for this process.
-define(WAITING, py_waiting_contexts).

%% Code and names become binaries, as do the keys of keyword arguments and locals.
-spec encode([argument()]) -> {ok, [binary() | list() | map() | timeout()]} | {error, {bad_argument, atom(), term(), binary()}}.
encode(Arguments) ->
    try
        {ok, [encode_one(Name, Value) || {Name, Value} <- Arguments]}
    catch
        throw:{bad_argument, _, _, _} = Reason -> {error, Reason}
    end.

-spec encode_one(atom(), term()) -> binary() | list() | map() | timeout().
encode_one(args, Value) when is_list(Value), length(Value) >= 0 ->
    Value;
encode_one(args, Value) ->
    bad(args, Value, <<"arguments are a proper list">>);
encode_one(timeout, Value) when Value =:= infinity; is_integer(Value), Value >= 0, Value =< ?TIMEOUT_MAX ->
    Value;
encode_one(timeout, Value) ->
    bad(timeout, Value, <<"a timeout is infinity or milliseconds, from 0">>);
encode_one(Name, Value) when Name =:= kwargs; Name =:= locals ->
    named(Name, Value);
encode_one(Name, Value) when Name =:= module; Name =:= function ->
    name(Name, Value);
encode_one(Name, Value) ->
    text(Name, Value).

-spec named(atom(), term()) -> #{binary() => term()}.
named(Name, Values) when is_map(Values) ->
    maps:from_list([{name(Name, Key), Value} || {Key, Value} <- maps:to_list(Values)]);
named(Name, Values) ->
    bad(Name, Values, <<"must be a map from names to values">>).

-spec name(atom(), term()) -> binary().
name(_Name, Value) when is_atom(Value) ->
    atom_to_binary(Value);
name(Name, Value) ->
    text(Name, Value).

-spec text(atom(), term()) -> binary().
text(Name, Value) when is_binary(Value); is_list(Value) ->
    try unicode:characters_to_binary(Value) of
        Text when is_binary(Text) -> Text;
        _Invalid -> bad(Name, Value, <<"is not valid UTF-8">>)
    catch
        error:badarg -> bad(Name, Value, <<"is not text">>)
    end;
text(Name, Value) ->
    bad(Name, Value, <<"must be text">>).

-spec bad(atom(), term(), binary()) -> no_return().
bad(Name, Value, Why) ->
    throw({bad_argument, Name, Value, Why}).

%% Sends the request and waits. A process of its own waits, because a thread may still answer after its context has
%% died: that answer then finds nobody, instead of a stranger's mailbox.
-spec run(pid(), send()) -> {ok, term()} | {error, term()}.
run(ContextPid, Send) ->
    run_within(ContextPid, Send, infinity).

%% As {@link run/2}, but `{error, timeout}' when there is no answer by then.
-spec run_within(pid(), send(), timeout()) -> {ok, term()} | {error, term()}.
run_within(ContextPid, Send, Timeout) ->
    case refused(ContextPid) of
        ok -> run(ContextPid, Send, Timeout, none, waiting());
        {error, _} = Error -> Error
    end.

%% As {@link run_within/3}; then a request that has not begun is dropped, and one that runs is interrupted, also if the
%% caller has died meanwhile.
-spec run_or_give_up(pid(), py_nif:ctx(), send(), timeout()) -> {ok, term()} | {error, term()}.
run_or_give_up(ContextPid, _Ctx, Send, infinity) ->
    run(ContextPid, Send);
run_or_give_up(ContextPid, Ctx, Send, Timeout) ->
    run_or_cancel(ContextPid, Ctx, Send, Timeout).

%% As {@link run_or_give_up/4}; a request that has become a task is cancelled when the caller dies.
-spec run_or_cancel(pid(), py_nif:ctx(), send(), timeout()) -> {ok, term()} | {error, term()}.
run_or_cancel(ContextPid, Ctx, Send, Timeout) ->
    case refused(ContextPid) of
        ok ->
            Ticket = py_nif:ticket(),
            run(ContextPid, fun(Waiter) -> Send({Ticket, Waiter}) end, Timeout, {Ctx, Ticket}, waiting());
        {error, _} = Error ->
            Error
    end.

%% As {@link run/2}, where the answer does not depend on the thread.
-spec run_anyway(pid(), send()) -> {ok, term()} | {error, term()}.
run_anyway(ContextPid, Send) ->
    run_anyway(ContextPid, Send, infinity).

-spec run_anyway(pid(), send(), timeout()) -> {ok, term()} | {error, term()}.
run_anyway(ContextPid, Send, Timeout) ->
    run(ContextPid, Send, Timeout, none, []).

%% These contexts wait for the calling process from now on.
-spec awaited_by([pid()]) -> ok.
awaited_by(Contexts) ->
    _ = put(?WAITING, Contexts),
    ok.

-spec waiting() -> [pid()].
waiting() ->
    case get(?WAITING) of
        undefined -> [];
        Contexts -> Contexts
    end.

%% A context that waits for the caller cannot answer it.
-spec refused(pid()) -> ok | {error, {would_deadlock, binary()}}.
refused(ContextPid) ->
    case lists:member(ContextPid, waiting()) of
        true ->
            {error, {would_deadlock, <<"this context waits in erlang.call for the process that asks: use another one">>}};
        false ->
            ok
    end.

%% The caller sends the request by itself: what it says is copied once, and not for the one who waits.
-spec run(pid(), send(), timeout(), ticket(), [pid()]) -> {ok, term()} | {error, term()}.
run(ContextPid, Send, Timeout, Ticket, Waiting) ->
    Ref = make_ref(),
    {Waiter, Monitor} = spawn_monitor(?MODULE, wait, [Ref, self(), ContextPid, Timeout, Ticket]),
    try Send({Waiter, Ref, Waiting}) of
        ok ->
            receive
                {'DOWN', Monitor, process, Waiter, {Ref, Result}} -> Result;
                {'DOWN', Monitor, process, Waiter, Reason} -> {error, {request_failed, Reason}}
            end;
        {error, _} = Error ->
            forget(Waiter, Monitor),
            Error
    catch
        error:Reason:Stack ->
            forget(Waiter, Monitor),
            {error, {request_failed, {Reason, Stack}}}
    end.

-spec forget(pid(), reference()) -> true.
forget(Waiter, Monitor) ->
    true = demonitor(Monitor, [flush]),
    exit(Waiter, kill).

-spec wait(reference(), pid(), pid(), timeout(), ticket()) -> no_return().
wait(Ref, Caller, ContextPid, Timeout, Ticket) ->
    OfCaller = monitor(process, Caller),
    OfContext = monitor(process, ContextPid),
    Over = timer(Timeout),
    await(Ref, {OfCaller, OfContext, Over}, Ticket).

-spec await(reference(), {reference(), reference(), reference() | none}, ticket()) -> no_return().
await(Ref, {OfCaller, OfContext, Over} = Awaited, Ticket) ->
    receive
        {Ref, Result} ->
            exit({Ref, Result});
        {'DOWN', OfCaller, process, _, _} ->
            ok = give_up(Ticket, task),
            %% The time holds also for what nobody waits for.
            _ = Over =:= none andalso exit(normal),
            await(Ref, Awaited, Ticket);
        {'DOWN', OfContext, process, _, Reason} ->
            receive
                {Ref, Result} -> exit({Ref, Result})
            after 0 -> exit({Ref, {error, {context_down, Reason}}})
            end;
        {timeout, Over, over} ->
            ok = give_up(Ticket, request),
            exit({Ref, {error, timeout}})
    end.

%% What may catch the exception, or clean up after a cancellation, has its time for that, once.
-spec give_up(ticket(), request | task) -> ok.
give_up(none, _Unwanted) ->
    ok;
give_up({Ctx, Ticket}, Unwanted) ->
    _ = spawn(?MODULE, insist, [Ctx, Ticket]),
    py_nif:give_up(Ctx, Ticket, Unwanted).

-spec insist(py_nif:ctx(), py_nif:ticket()) -> ok.
insist(Ctx, Ticket) ->
    receive
    after ?INSIST_AFTER_MS -> py_nif:give_up(Ctx, Ticket, leftovers)
    end.

-spec timer(timeout()) -> reference() | none.
timer(infinity) -> none;
timer(Timeout) -> erlang:start_timer(Timeout, self(), over).
