%% @doc Starts the application where somebody needs it, for functions that work without an explicit start.
%% @private
-module(py_reactor_on_demand).

-export([ensure_started/0]).

-spec ensure_started() -> ok | {error, {not_started, py_reactor, term()}}.
ensure_started() ->
    case py_reactor_table:exists() of
        true ->
            ok;
        false ->
            case application:ensure_all_started(py_reactor) of
                {ok, _Started} -> ok;
                {error, Reason} -> {error, {not_started, py_reactor, Reason}}
            end
    end.
