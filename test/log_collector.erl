%% Sends what contexts log to a test, instead of into the report of the run.
-module(log_collector).

-export([install/0, remove/0, await/2, flush/0]).
-export([filter/2]).

install() ->
    ok = logger:add_primary_filter(?MODULE, {fun ?MODULE:filter/2, self()}).

remove() ->
    logger:remove_primary_filter(?MODULE).

filter(#{meta := #{py_context := _}} = Event, Pid) ->
    Pid ! {?MODULE, Event},
    stop;
filter(Event, _Pid) ->
    Event.

%% The first line of a context that contains all the texts: {Level, Text, Meta}.
await(ContextId, Texts) ->
    receive
        {?MODULE, #{level := Level, msg := Msg, meta := #{py_context := ContextId} = Meta}} ->
            Line = text(Msg),
            case [Text || Text <- Texts, string:find(Line, Text) =:= nomatch] of
                [] -> {Level, Line, Meta};
                _Missing -> await(ContextId, Texts)
            end
    after 60000 -> error({no_log_line, ContextId, Texts})
    end.

%% The lines that have arrived.
flush() ->
    receive
        {?MODULE, #{msg := Msg}} -> [text(Msg) | flush()]
    after 0 -> []
    end.

text({report, Report}) ->
    io_lib:format("~tp", [Report]);
text({string, String}) ->
    unicode:characters_to_list(String);
text({Format, Arguments}) ->
    unicode:characters_to_list(io_lib:format(Format, Arguments)).
