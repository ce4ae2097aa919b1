%% @doc Calls from Python (`erlang.call') to functions that Erlang has registered.
%%
%% Each call runs in a process of its own, so that a function may wait for what it likes; the native half bounds how many
%% there are. That process knows which contexts wait for it: a request to one of them from there would never be answered,
%% and {@link py_request} refuses it.
%% @private
-module(py_functions).
-behaviour(gen_server).

-export([start_link/0]).
-export([run/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export_type([callable/0]).

-type callable() :: fun() | {module(), Function :: atom()}.
-type state() :: #{Monitor :: reference() => py_nif:call_answer()}.

%% Of what a function raised, so many characters go to Python.
-define(ERROR_CHARS_MAX, 4000).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    case gen_server:start_link({local, ?MODULE}, ?MODULE, [], []) of
        {ok, Pid} -> {ok, Pid};
        {error, _} = Error -> Error
    end.

-spec init([]) -> {ok, state()}.
init([]) ->
    {ok, #{}}.

-spec handle_call(term(), gen_server:from(), state()) -> {reply, term(), state()}.
handle_call(Request, _From, Calls) ->
    {reply, {error, {unknown_request, Request}}, Calls}.

-spec handle_cast(term(), state()) -> {noreply, state()}.
handle_cast(_Unknown, Calls) ->
    {noreply, Calls}.

-spec handle_info(term(), state()) -> {noreply, state()}.
handle_info({py_call, Answer, Name, Args, Contexts}, Calls) ->
    {_Pid, Monitor} = spawn_monitor(?MODULE, run, [Answer, Name, Args, Contexts]),
    {noreply, Calls#{Monitor => Answer}};
handle_info({'DOWN', Monitor, process, _Pid, Reason}, Calls) ->
    case maps:take(Monitor, Calls) of
        {Answer, Left} ->
            %% Ignored if it has answered.
            ok = py_nif:answer_call(Answer, {raised, text("** exited with ~0tp", [Reason])}),
            {noreply, Left};
        error ->
            {noreply, Calls}
    end;
handle_info(_Unknown, Calls) ->
    {noreply, Calls}.

%% The process of one call.
-spec run(py_nif:call_answer(), binary(), [term()], [pid()]) -> ok.
run(Answer, Name, Args, Contexts) ->
    ok = py_request:awaited_by(Contexts),
    Result =
        case py_reactor_table:function(Name) of
            {ok, Function} -> call(Name, Function, Args);
            error -> {not_registered, none}
        end,
    py_nif:answer_call(Answer, Result).

-spec call(binary(), callable(), [term()]) -> {atom(), term()}.
call(Name, Function, Args) ->
    case takes(Function, length(Args)) of
        true ->
            try
                {ok, apply_to(Function, Args)}
            catch
                Class:Reason:Stack -> {raised, text("~ts", [erl_error:format_exception(Class, Reason, Stack)])}
            end;
        false ->
            {bad_arity, text("the Erlang function ~ts, which is ~tp, does not take ~b arguments", [Name, Function, length(Args)])}
    end.

-spec takes(callable(), arity()) -> boolean().
takes(Function, Arity) when is_function(Function) ->
    is_function(Function, Arity);
takes({Module, Function}, Arity) ->
    _ = code:ensure_loaded(Module),
    erlang:function_exported(Module, Function, Arity) orelse erlang:is_builtin(Module, Function, Arity).

-spec apply_to(callable(), [term()]) -> term().
apply_to({Module, Function}, Args) -> apply(Module, Function, Args);
apply_to(Function, Args) -> apply(Function, Args).

-spec text(io:format(), [term()]) -> binary().
text(Format, Args) ->
    case unicode:characters_to_binary(io_lib:format(Format, Args, [{chars_limit, ?ERROR_CHARS_MAX}])) of
        Text when is_binary(Text) -> Text;
        _Invalid -> <<"a reason that is no text">>
    end.
