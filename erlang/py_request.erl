%% @doc One request to a context's thread: its arguments in the form that the native half wants, and the wait for the
%% answer.
%% @private
-module(py_request).

-export([encode/1, run/2, run_within/3, run_anyway/2, awaited_by/1, refused/1]).
-export([wait/4]).
-export_type([argument/0, send/0]).

-type argument() :: {code | expression | module | function | args | locals | kwargs, term()}.
-type send() :: fun((py_nif:waiter()) -> ok | {error, term()}).
%% To be answered as that says.

%% In the process dictionary: the contexts that wait for this process.
-define(WAITING, py_waiting_contexts).

%% Code and names become binaries, as do the keys of keyword arguments and locals.
-spec encode([argument()]) -> {ok, [binary() | list() | map()]} | {error, {bad_argument, atom(), term(), binary()}}.
encode(Arguments) ->
    try
        {ok, [encode_one(Name, Value) || {Name, Value} <- Arguments]}
    catch
        throw:{bad_argument, _, _, _} = Reason -> {error, Reason}
    end.

-spec encode_one(atom(), term()) -> binary() | list() | map().
encode_one(args, Value) when is_list(Value), length(Value) >= 0 ->
    Value;
encode_one(args, Value) ->
    bad(args, Value, <<"arguments are a proper list">>);
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
        ok -> run(ContextPid, Send, Timeout, waiting());
        {error, _} = Error -> Error
    end.

%% As {@link run/2}, where the answer does not depend on the thread.
-spec run_anyway(pid(), send()) -> {ok, term()} | {error, term()}.
run_anyway(ContextPid, Send) ->
    run(ContextPid, Send, infinity, []).

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
-spec run(pid(), send(), timeout(), [pid()]) -> {ok, term()} | {error, term()}.
run(ContextPid, Send, Timeout, Waiting) ->
    Ref = make_ref(),
    {Waiter, Monitor} = spawn_monitor(?MODULE, wait, [Ref, self(), ContextPid, Timeout]),
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

-spec wait(reference(), pid(), pid(), timeout()) -> no_return().
wait(Ref, Caller, ContextPid, Timeout) ->
    OfCaller = monitor(process, Caller),
    OfContext = monitor(process, ContextPid),
    receive
        {Ref, Result} ->
            exit({Ref, Result});
        {'DOWN', OfCaller, process, Caller, _} ->
            exit(normal);
        {'DOWN', OfContext, process, ContextPid, Reason} ->
            receive
                {Ref, Result} -> exit({Ref, Result})
            after 0 -> exit({Ref, {error, {context_down, Reason}}})
            end
    after Timeout -> exit({Ref, {error, timeout}})
    end.
